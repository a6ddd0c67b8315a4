"""Stop a training between two updates when a signal asks for it, and save where it is."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from noisescale.execution.agreement import Agreement
from noisescale.execution.compatibility import untyped
from noisescale.execution.last_checkpoint import last_path, leave_averages
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.signals import SIGNALS, Handlers, Interrupted, foreign

__all__ = ["StopOnSignal"]

_ECHO = 1.0  # seconds: torchrun passes Ctrl-C on to processes that have got it already
_STOP = 1000  # added to the number of a signal that ends the training


class StopOnSignal(LeanCallback):
    """At SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU: finish the update, save last.ckpt, and raise `Interrupted`.

    `Interrupted` is a SystemExit with the status 128 + n of signal n, so a program that does not catch it ends as it would have, only
    later, and with a checkpoint. A run that is resumed from it is the run that never stopped, bit for bit. A validation is left at its next
    batch, and the resumed run repeats it. A second SIGINT raises at once, without a checkpoint, and so does a signal before the first
    update.

    On several devices it is enough that one process gets the signal: all of them stop at the same point, one update later than that process
    alone would have. For that they exchange a number at each update, for which none of them waits; it replaces Lightning's exchange for
    SIGTERM at each micro-batch, for which all of them do.

    Signals are handled from the first update to the end of the training, in place of the Trainer's own handling of SIGTERM. Afterwards the
    handlers are what they were. If a library or the user has set a handler for a signal, such as submitit or Lightning's SLURM environment,
    that handler is called when the checkpoint has been saved; if it returns, the training goes on. A signal that is ignored stays ignored.
    In a thread other than the main one no signal is handled.

    Args:
        path: the checkpoint; None: last.ckpt in the folder of the trainer's checkpoint callback, or of default_root_dir/checkpoints.

    Attributes:
        received: the signal that was received, in this process, during the last `fit`; None if there was none.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = path
        self.received: int | None = None
        self._received_at = 0.0
        self._handlers = Handlers(self._receive)
        self._theirs: dict[int, Callable[..., Any]] = {}  # the handlers of libraries and the user
        self._sigterm_before: Any = None
        self._sigchld_before: Any = None
        self._agreement: Agreement | None = None
        self._loader: PlannedLoader | None = None
        self._has_begun = False
        self._batches_together = 0.0  # of a validation: those that all processes have

    # -- handlers -------------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.received, self._has_begun = None, False
        self._theirs = {number: handler for number in SIGNALS if (handler := foreign(number)) is not None}
        self._sigterm_before = signal.getsignal(signal.SIGTERM)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # first among the callbacks, so that at the first batch of an update nothing else has begun it
        untyped(trainer).callbacks = [self, *(callback for callback in untyped(trainer).callbacks if callback is not self)]

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install()
        loader = trainer.train_dataloader
        self._loader = loader if isinstance(loader, PlannedLoader) else None
        self._agreement = Agreement(trainer)
        if not self._agreement.alone:
            _attributes(trainer.fit_loop.epoch_loop)["_broadcast_sigterm_tensor"] = _nothing

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # on several devices the Trainer's handler of SIGTERM calls a collective operation, of which the other processes know nothing
        if trainer.world_size > 1 and self._handlers.possible:
            signal.signal(signal.SIGTERM, self._sigterm_before)

    def _install(self) -> None:
        """Take over from the handlers that the Trainer has just installed."""
        if not self._handlers.possible:
            return
        for number in SIGNALS:
            handler = foreign(number)
            if handler is not None and number != signal.SIGTERM:
                self._theirs[number] = handler  # that of Lightning's SLURM environment, which queues the job again
        self._handlers.install()

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        if not self._has_begun:
            if number not in self._theirs:
                raise Interrupted(number)
            self._theirs[number](number, None)
        elif self.received is None:
            self.received, self._received_at = number, now
            self._expect_workers_to_end()
            if number == signal.SIGINT and sys.stderr.isatty():
                os.write(2, b"\nstopping after this update; Ctrl-C again stops at once, without saving\n")
        elif number == signal.SIGINT and not ("TORCHELASTIC_RUN_ID" in os.environ and now - self._received_at < _ECHO):
            raise Interrupted(number, again=True)

    def _expect_workers_to_end(self) -> None:
        """Do without torch's handler of SIGCHLD, which raises at the next bytecode, wherever that is, when a DataLoader worker has died.

        A cluster sends its signals to the workers as well. Without the handler the DataLoader notices five seconds after it has begun to
        wait for a batch, and raises there.
        """
        if not hasattr(signal, "SIGCHLD") or not self._handlers.possible:
            return
        if callable(handler := signal.getsignal(signal.SIGCHLD)):
            self._sigchld_before = handler
            signal.signal(signal.SIGCHLD, _ignore)

    def _mind_workers(self) -> None:
        """Undo `_expect_workers_to_end`."""
        if self._sigchld_before is not None and self._handlers.possible:
            signal.signal(signal.SIGCHLD, self._sigchld_before)
            self._sigchld_before = None

    # -- where the training can stop ------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._loader is not None:
            between = self._loader.current is None or self._loader.current.index == 0
        else:
            between = batch_idx % trainer.accumulate_grad_batches == 0
        if between:
            self._has_begun = True
            self._stop_if_asked(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._agreement is None or self._agreement.alone:
            return
        batches = trainer.num_val_batches
        mine = float(sum(batches) if isinstance(batches, list) else batches)
        together = -trainer.strategy.reduce(_on_device(-mine, trainer), reduce_op="max")  # the fewest
        self._batches_together = float(together)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._agreement is None or not self._has_begun:
            return
        self._batches_together -= 1
        if self._agreement.alone or self._batches_together >= 0:
            self._stop_if_asked(trainer, pl_module)

    def _stop_if_asked(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._agreement is not None
        asked = self._agreement.exchange(self._question())
        if not asked:
            return
        path = self.save(trainer, pl_module)
        if asked > _STOP:
            raise Interrupted(asked - _STOP, saved=None if path is None else str(path))
        mine, self.received = self.received, None
        self._mind_workers()
        if mine is not None:
            self._theirs[mine](mine, None)

    def _question(self) -> int:
        """What this process asks the others: 0 for nothing, n to save because of signal n, `_STOP` + n to stop as well."""
        if self.received is None:
            return 0
        return self.received if self.received in self._theirs else _STOP + self.received

    # -- the checkpoint -------------------------------------------------------------------------------------------------------

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Path | None:
        """Save where the training is, on all processes; returns the checkpoint, or None in a `fast_dev_run`, which leaves none."""
        if getattr(trainer, "fast_dev_run", False):
            return None
        leave_averages(trainer, pl_module)
        path = last_path(trainer, self.path)
        trainer.save_checkpoint(path, weights_only=False)
        return path

    # -- the end --------------------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Agree for the last time: a signal after the last update ends all processes, but not before the training has been wound up."""
        assert self._agreement is not None
        asked = self._agreement.settle(self._question())
        self.received = asked % _STOP if asked else None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._leave(trainer)
        if stage == "fit" and self.received is not None:
            number, self.received = self.received, None
            if number in self._theirs:
                self._theirs[number](number, None)
            else:
                saved = None if untyped(trainer).checkpoint_callbacks else self.save(trainer, pl_module)
                raise Interrupted(number, saved=None if saved is None else str(saved))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if "DataLoader worker" in str(exception):
            self._wait_for_a_signal()
        self._leave(trainer)

    def _wait_for_a_signal(self) -> None:
        """A signal to all processes may end a worker a moment before it arrives here."""
        deadline = time.monotonic() + _ECHO
        while self.received is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _leave(self, trainer: pl.Trainer) -> None:
        self._handlers.remove()
        self._mind_workers()
        _attributes(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)
        if self._agreement is not None:
            self._agreement.close()
            self._agreement = None


def _attributes(loop: Any) -> dict[str, Any]:
    """The attributes of a loop; one of its methods is replaced there and comes back when it is removed."""
    attributes: dict[str, Any] = vars(loop)
    return attributes


def _nothing() -> None:
    """Do nothing."""


def _ignore(number: int, frame: Any) -> None:
    """Do nothing about a signal; the system's default would make Python complain of one that has arrived already."""


def _on_device(value: float, trainer: pl.Trainer) -> torch.Tensor:
    return torch.tensor(value, device=trainer.strategy.root_device)
