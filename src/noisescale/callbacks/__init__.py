"""The public callbacks: each carries out a plan or measures what happened; none makes a decision of its own.

Import them from here: `from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor`.
"""

from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.checkpoint import Checkpoint
from noisescale.execution.checkpoint_io import SafeCheckpointIO
from noisescale.execution.out_of_memory import SaveOnOutOfMemory
from noisescale.execution.progress import TimedProgressBar
from noisescale.execution.same_run import SameRun
from noisescale.execution.stop_on_signal import StopOnSignal
from noisescale.measures.divergence import StopOnDivergence, TrainingDiverged
from noisescale.measures.epochs import EpochRecorder
from noisescale.measures.gradient_noise import GradientNoiseScale
from noisescale.measures.noise_scale import NoiseScaleMonitor
from noisescale.measures.sharpness import Sharpness

__all__ = [
    "BatchSizeScheduler",
    "Checkpoint",
    "EpochRecorder",
    "GradientNoiseScale",
    "NoiseScaleMonitor",
    "SafeCheckpointIO",
    "SameRun",
    "SaveOnOutOfMemory",
    "Sharpness",
    "StopOnDivergence",
    "StopOnSignal",
    "TimedProgressBar",
    "TrainingDiverged",
]
