"""Log the SGD noise scale g = lr (N/B - 1) of each update, with the lr and the B that were really used."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.data import extract_batch_size
from pytorch_lightning.utilities.model_helpers import is_overridden

from noisescale.errors import check_count
from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.compatibility import untyped
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.measures.dashboards import Scalars, add_layout, log_scalars
from noisescale.measures.logger_files import LoggerFiles, due_points, log_due_points
from noisescale.measures.observed import MicroBatchSeen, UpdateSeen, totals, weight_of
from noisescale.measures.population import Population, population_of
from noisescale.measures.step_file import Mark, StepFile, examples_before
from noisescale.plans.noise import sgd_noise_scale, with_momentum
from noisescale.signals import Interrupted

__all__ = ["NoiseScaleMonitor"]

COLUMNS = ("step", "epoch", "examples_seen", "lr", "effective_batch_size", "micro_batch_size", "accumulate_grad_batches", "g", "loss")


class NoiseScaleMonitor(LeanCallback):
    """Write a row per update: g = lr (N/B - 1), with lr read back from the optimizer and B the real number of examples; and the loss.

    Training with it is bitwise equal to training without it: it draws no random numbers and changes nothing.

    | where | keys |
    | --- | --- |
    | steps.csv | step; epoch and examples_seen, both at the start of the update; lr; effective_batch_size; |
    | | micro_batch_size, of the largest micro-batch; accumulate_grad_batches; g; loss, the mean over the examples of the update; |
    | | weight, only if `BatchSizeScheduler` has a weight: the sum of the weights, and the loss is the weighted mean |
    | loggers | train/loss, lr, batch/effective, batch/micro, batch/accumulate, noise/g; |
    | | noise/g_momentum = g/(1-m), if the optimizer has momentum m; batch/weight, if there is a weight |
    | TensorBoard | also each of these as by_examples/..., over examples seen |

    B counts the examples that the data set gave for the update on all devices, before they are collated; the loss is the mean over them.
    lr and m are those of the first parameter group. If examples are drawn with replacement, as by WeightedRandomSampler, g = lr N/B, and N
    is the number of examples that can be drawn, not the number of draws. Rows are buffered and written together, so that no update waits
    for them; all of them are written before a checkpoint is saved. A run that is resumed cuts steps.csv and TensorBoard's files back to
    what they were then. The monitor moves to the front of the trainer's callbacks, so that it has seen an update before another callback
    saves it, but not past one that may set the learning rate just before the step.

    Args:
        path: the CSV file; None: steps.csv in the trainer's log_dir; False: no file.
        num_examples: N; None: the number of examples that the train DataLoader draws from.
        write_every: updates between two writes, >= 1.

    Raises:
        ConfigError: an argument is out of its range; or, when training starts, N is not given and the DataLoader does not have it.

    Sources: Smith & Le 1710.06451; Smith et al. 1711.00489 (with momentum).
    """

    def __init__(self, path: str | Path | bool | None = None, num_examples: int | None = None, write_every: int = 256) -> None:
        check_count("write_every", write_every, unit="updates")
        if num_examples is not None:
            check_count("num_examples", num_examples, unit="examples")
        self.path, self.num_examples, self.write_every = path, num_examples, write_every
        self._file: StepFile | None = None
        self._loggers = LoggerFiles()
        self._trainer: pl.Trainer | None = None
        self._saved: dict[str, Any] = {}  # the state of the checkpoint that is resumed
        self._rows: list[UpdateSeen] = []
        self._population = Population(0)
        self._examples_seen = 0
        self._restored, self._fitting = False, True
        self._window: list[MicroBatchSeen] = []  # the micro-batches of the current update
        self._rates: tuple[float, float] = (math.nan, 0.0)
        self._last_lr = math.nan  # of the last update that has a row
        self._announced = False
        self._steps = 0

    # -- collecting -----------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._population = population_of(trainer.train_dataloader, self.num_examples)
        goes_on = self._restored or 0 < trainer.global_step == self._steps
        if not goes_on:  # the monitor may have been used in another run
            self._examples_seen, self._window, self._rates = examples_before(trainer, self._population.num_examples), [], (math.nan, 0.0)
            self._last_lr = math.nan
        self._steps, self._announced, self._restored = trainer.global_step, False, False
        if self.path is not False and not getattr(trainer, "fast_dev_run", False):
            # reading log_dir is a collective operation, so every device has to do it
            folder = trainer.log_dir or trainer.default_root_dir if self.path in (None, True) else None
            path = Path(folder) / "steps.csv" if folder is not None else Path(str(self.path))
            columns = COLUMNS if weight_of(trainer) is None else (*COLUMNS, "weight")
            if trainer.is_global_zero:
                seen = self._examples_seen if trainer.world_size == 1 else None  # of several devices a checkpoint has the planned number
                last = (self._last_lr, seen) if goes_on else None
                mark = Mark(**self._saved["file"]) if self._saved.get("file") else None
                self._file = StepFile(path, columns, self._steps, last, shared=folder == trainer.default_root_dir, mark=mark)
        self._resume_loggers(trainer)
        add_layout(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._resume_loggers(trainer)  # of a run that had nothing left to train

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        self._window = []
        if not self._announced and isinstance(trainer.train_dataloader, PlannedLoader):
            self._announce(trainer, None)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        group = optimizer.param_groups[0]
        self._rates = float(group["lr"]), float(group.get("momentum", 0.0))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        loader = trainer.train_dataloader
        planned = loader if isinstance(loader, PlannedLoader) else None
        if not self._announced:
            self._announce(trainer, batch)
        size = planned.handed_out if planned is not None else extract_batch_size(batch)
        self._window.append(MicroBatchSeen(size, weight_of(trainer), outputs.get("loss") if isinstance(outputs, dict) else None))
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        window, self._window = self._window, []
        update = planned.current.update if planned is not None and planned.current is not None else None
        here = sum(micro.examples for micro in window)
        lr, momentum = self._rates
        self._last_lr = lr
        row = UpdateSeen(
            step=self._steps - 1,
            epoch=None if update is None else update.epoch,
            lr=lr,
            momentum=momentum,
            expected=trainer.world_size * here if update is None or trainer.world_size == 1 else update.effective_batch_size,
            micro=max(micro.examples for micro in window),
            accumulate=len(window),
            divisor=int(trainer.accumulate_grad_batches),
            micro_batches=window,
            wall_time=time.time(),
        )
        self._rows.append(row)
        if len(self._rows) >= self.write_every:
            self._write(trainer)

    # -- writing --------------------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._write(trainer, together=isinstance(exception, Interrupted) and exception.saved is not None)  # otherwise they may be gone

    def state_dict(self) -> dict[str, Any]:
        """The number of examples seen, the micro-batches of an unfinished update, and how far the files go, which has all rows by then.

        With several devices it is a collective operation, as saving a checkpoint is.
        """
        trainer, state = self._trainer, {}
        if trainer is not None:
            self._write(trainer, together=not trainer.interrupted)
            if trainer.is_global_zero:
                state = {"file": None if self._file is None else asdict(self._file.mark()), "loggers": self._loggers.state(trainer)}
        window = [(micro.examples, micro.weight, None if micro.loss is None else float(micro.loss)) for micro in self._window]
        return {"examples_seen": self._examples_seen, "window": window, "lr": self._last_lr, **state}

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        if (due := due_points(trainer, checkpoint)) is not None:
            checkpoint["callbacks"][self.state_key] = {**checkpoint["callbacks"][self.state_key], "due": due}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"
        if self._fitting:
            self._trainer, self._saved = trainer, {}
            _move_up(self, trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._fitting:  # the weights of a checkpoint are tested or validated
            return
        self._restored, self._saved = True, state_dict
        self._examples_seen, self._last_lr = state_dict["examples_seen"], state_dict.get("lr", math.nan)
        self._window = [
            MicroBatchSeen(n, weight, None if loss is None else torch.tensor(loss, dtype=torch.float64))
            for n, weight, loss in state_dict["window"]
        ]

    def _resume_loggers(self, trainer: pl.Trainer) -> None:
        saved, self._saved = self._saved, {}
        if saved and trainer.is_global_zero:
            self._loggers.resume(trainer, saved.get("loggers"))
            log_due_points(trainer, saved.get("due"))

    def _write(self, trainer: pl.Trainer, together: bool = True) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        written, scalars = [], []
        for row, (effective, weight, loss) in zip(rows, totals(trainer, rows, together), strict=True):
            seen, self._examples_seen = self._examples_seen, self._examples_seen + effective
            epoch = seen / self._population.num_examples if row.epoch is None else row.epoch
            g = self._noise(row.lr, effective) if effective else math.nan  # the data set gave nothing at all
            weights = () if weight is None else (weight,)
            written.append((row.step, epoch, seen, row.lr, effective, row.micro, row.accumulate, g, loss, *weights))
            values = {
                "train/loss": loss,
                "lr": row.lr,
                "batch/effective": effective,
                "batch/micro": row.micro,
                "batch/accumulate": row.accumulate,
                "noise/g": g,
            }
            if row.momentum:
                values["noise/g_momentum"] = with_momentum(g, row.momentum)
            if weight is not None:
                values["batch/weight"] = weight
            scalars.append(Scalars(values, row.step, seen, row.wall_time))
        if not trainer.is_global_zero:
            return
        log_scalars(trainer, scalars)
        if self._file is not None:
            self._file.append(written)

    def _announce(self, trainer: pl.Trainer, batch: Any) -> None:
        self._announced = True
        rank_zero_info(self._description(trainer, batch))

    def _description(self, trainer: pl.Trainer, batch: Any) -> str:
        loader = trainer.train_dataloader
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        if isinstance(loader, PlannedLoader) and loader.current is not None:
            effective = loader.current.update.effective_batch_size
            words = loader.plan.in_words(loader.current.update)
        else:
            micro, k, devices = extract_batch_size(batch), int(trainer.accumulate_grad_batches), trainer.world_size
            effective = micro * k * devices
            words = f"effective {effective} = {micro} micro x {k} accumulate x {devices} device{'s' if devices > 1 else ''}"
        device = _device_in_words(trainer.strategy.root_device)
        return f"{words}; {self._population.in_words()}; lr {lr:.4g}; g {self._noise(lr, effective):.4g}; {device}"

    def _noise(self, lr: float, batch_size: int) -> float:
        return sgd_noise_scale(lr, self._population.num_examples, batch_size, self._population.replacement)


def _device_in_words(device: torch.device) -> str:
    """`on the CPU`, or the name of the GPU."""
    if device.type == "cpu":
        return "on the CPU"
    return f"on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f"on {device}"


def _move_up(monitor: NoiseScaleMonitor, trainer: pl.Trainer) -> None:
    callbacks = list(untyped(trainer).callbacks)
    place = at = callbacks.index(monitor)
    while place and not _stays_before(callbacks[place - 1]):
        place -= 1
    untyped(trainer).callbacks = [*callbacks[:place], monitor, *callbacks[place:at], *callbacks[at + 1 :]]


def _stays_before(callback: pl.Callback) -> bool:
    return isinstance(callback, BatchSizeScheduler) or is_overridden("on_before_optimizer_step", callback, pl.Callback)
