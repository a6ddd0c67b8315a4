"""Callbacks that end a run; a test names one on a command line: `+callbacks.end._target_=tests.helpers.callbacks.KilledByTheSystem`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch


class KilledByTheSystem(pl.Callback):
    """Kills the process at the first batch, as the system does when memory runs out."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Unpicklable(Exception):
    """An error that can be pickled but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class FailsWithSeed0(pl.Callback):
    """Raises an unpicklable error in the run with seed 0."""

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if os.environ.get("PL_GLOBAL_SEED") == "0":
            raise Unpicklable("first", "second")


class RaiseSignal(pl.Callback):
    """Sends a signal to this process after update `at`."""

    def __init__(self, number: int, at: int) -> None:
        self.number, self.at = number, at

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at:
            if signal.getsignal(self.number) in (signal.SIG_DFL, signal.SIG_IGN):
                pytest.fail("nobody handles the signal")
            signal.raise_signal(self.number)


class RaisesValueError(pl.Callback):
    """A bug in a user's code."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        raise ValueError("a bug of the user's")


class StopsAfter(pl.Callback):
    """Asks the trainer to stop after so many micro-batches."""

    def __init__(self, micro_batches: int) -> None:
        self.left = micro_batches

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.should_stop = True


class Interrupts(pl.Callback):
    """Interrupts the run at the first batch, as Ctrl-C does."""

    def on_train_batch_start(self, *arguments: Any) -> None:
        raise KeyboardInterrupt


class Logs(pl.Callback):
    """Logs a metric of its own, `mine`, after each epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("mine", float(trainer.current_epoch))


class KeepsWeights(pl.Callback):
    """Keeps all weights after each update, in `kept`."""

    kept: ClassVar[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.kept.append(torch.cat([parameter.detach().flatten().clone() for parameter in pl_module.parameters()]))


class FailsOnRank1(pl.Callback):
    """A bug that shows on one process only."""

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 5:
            raise ValueError("a bug on rank 1")


class SignalAtTheStart(pl.Callback):
    """Sends SIGTERM to this process while the training is prepared."""

    def on_fit_start(self, *arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)


class SignalInTheTest(pl.Callback):
    """Sends SIGTERM to this process in its test."""

    def on_test_batch_start(self, *arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)


class EndsOnce(pl.Callback):
    """At the first batch of epoch `epoch`, raises KeyboardInterrupt, or kills the process, in the run with seed `seed`, once.

    Args:
        mark: a file that it leaves, so that the run is not ended again.
        kill: end the process with SIGKILL.
    """

    def __init__(self, mark: str, epoch: int = 1, seed: int = 0, kill: bool = False) -> None:
        self.mark, self.epoch, self.seed, self.kill = Path(mark), epoch, seed, kill

    def on_train_batch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if trainer.current_epoch == self.epoch and os.environ.get("PL_GLOBAL_SEED") == str(self.seed) and not self.mark.exists():
            self.mark.touch()
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt


class Exits(pl.Callback):
    """Ends the process at the first batch, as a library in C may do: nothing is cleaned up."""

    def __init__(self, status: int) -> None:
        self.status = status

    def on_train_batch_start(self, *arguments: Any) -> None:
        os._exit(self.status)
