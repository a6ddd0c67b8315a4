"""Thin callbacks: they obey a plan, or they measure what happened; they decide nothing."""

from noisescale.callbacks.batch_size import BatchSizeScheduler
from noisescale.callbacks.checkpoint import Checkpoint
from noisescale.callbacks.divergence import StopOnDivergence, TrainingDiverged
from noisescale.callbacks.epochs import EpochRecorder
from noisescale.callbacks.noise_scale import NoiseScaleMonitor
from noisescale.callbacks.progress import TimedProgressBar
from noisescale.callbacks.same_run import SameRun

__all__ = [
    "BatchSizeScheduler",
    "Checkpoint",
    "EpochRecorder",
    "NoiseScaleMonitor",
    "SameRun",
    "StopOnDivergence",
    "TimedProgressBar",
    "TrainingDiverged",
]
