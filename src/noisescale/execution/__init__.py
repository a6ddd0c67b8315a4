"""Carrying out a plan: the loader, the callback that runs each update as planned, resuming, and a fast training loop.

For a training loop without Lightning: `from noisescale.execution import PlannedBatches, largest_micro_batch`, which imports torch only. The
callbacks are in `noisescale.callbacks`.
"""

from noisescale.execution.micro_batch_search import largest_micro_batch
from noisescale.execution.planned_batches import PlannedBatches

__all__ = ["PlannedBatches", "largest_micro_batch"]
