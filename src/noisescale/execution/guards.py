"""Compare, for every micro-batch, what Lightning did with what was planned."""

from __future__ import annotations

import warnings

from noisescale.execution.micro_batch import MicroBatch

__all__ = ["Guards"]


class Guards:
    """Lightning zeroes the gradients before the first micro-batch of an update, and steps after the last; each has one backward pass.

    Lightning decides separately whether to zero the gradients and whether to step, so one can be right and the other wrong.

    Attributes:
        inside_batch: whether a micro-batch has been started that is not done.
    """

    def __init__(self) -> None:
        self.inside_batch = False
        self._zeroed = False
        self._backwards = 0
        self._steps_before = 0
        self._said_count = False

    def start(self, micro: MicroBatch, expected_batch: int, batch_idx: int, global_step: int) -> None:
        """A micro-batch starts; raises `RuntimeError` if Lightning counts other batches than the plan."""
        self.inside_batch, self._zeroed, self._backwards, self._steps_before = True, False, 0, global_step
        if batch_idx != expected_batch:
            raise RuntimeError(
                f"Lightning started batch {batch_idx} of the epoch, but the plan has micro-batch {micro.index} of update "
                f"{micro.update.start.step} next"
            )

    def compare_count(self, micro: MicroBatch, given: int) -> None:
        """Warn, once, if the data set did not give the number of examples that the plan has."""
        if given != micro.size and not self._said_count:
            self._said_count = True
            warnings.warn(
                f"update {micro.update.start.step}: the data set gave {given} examples for a micro-batch of {micro.size}; "
                "NoiseScaleMonitor logs the real count, but gradients are weighted as planned",
                stacklevel=1,
            )

    def zero_grad(self) -> None:
        """The gradients are zeroed."""
        self._zeroed = True

    def backward(self) -> None:
        """A backward pass starts."""
        self._backwards += 1

    def has_stepped(self, global_step: int) -> bool:
        """Whether the optimizer has stepped since the micro-batch started."""
        return global_step > self._steps_before

    def check(self, micro: MicroBatch, global_step: int) -> None:
        """The micro-batch is done; raises `RuntimeError` unless everything was as planned."""
        if self._zeroed != (micro.index == 0) or self.has_stepped(global_step) != micro.is_last:
            raise RuntimeError(
                f"update {micro.update.start.step}, micro-batch {micro.index} of {micro.update.accumulate_grad_batches}: gradients were "
                f"{'' if self._zeroed else 'not '}zeroed and {global_step - self._steps_before} steps taken; "
                "another callback or the module changes accumulate_grad_batches or steps the optimizer"
            )
        if self._backwards != 1:
            raise RuntimeError(
                f"update {micro.update.start.step}, micro-batch {micro.index}: {self._backwards} backward passes instead of one; "
                "training_step must return a loss for every batch, and an optimizer that calls its closure again (LBFGS) cannot be planned"
            )
