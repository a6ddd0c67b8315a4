"""Log the gradient noise scale tr(Sigma)/|G|^2, measured from the gradients of the micro-batches of an update."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from pytorch_lightning.utilities.data import extract_batch_size

from noisescale.errors import ConfigError
from noisescale.execution.batch_norm import pieces_share_statistics
from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.compatibility import untyped
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.files import AppendedRows, Extent
from noisescale.measures.dashboards import Scalars, log_scalars
from noisescale.measures.gradient_noise_checks import Counts, check_what_the_plan_goes_by, say_if_nothing_can_be_measured
from noisescale.measures.gradients import NoiseAverage, NoiseEstimate, RecentNoise, batch_efficiency, estimate
from noisescale.measures.piece_norms import PieceNorms
from noisescale.plans.adaptive import GRADIENT_NOISE_SCALE, LEAST_NOISE_SCALE
from noisescale.plans.checks import check_gradient_noise, check_measured_updates

__all__ = ["GradientNoiseScale"]

COLUMNS = ("step", "epoch", "examples_seen", "size", "grad_sq_norm", "grad_cov_trace", "gns", "gns_low", "gns_high", "batch_efficiency")

EVERY = 50
"""Updates from one measurement to the next without a plan that says so. Its cost per update of a small network: see `make bench`."""


MEASURING = ("on_before_backward", "on_before_optimizer_step")
"""Hooks that only an update that is measured needs."""


class GradientNoiseScale(LeanCallback):
    """B_simple = tr(Sigma) / |G|^2, from the gradients of the pieces of every n-th update, at the same weights.

    Sigma is the covariance of the gradients of single examples, G their mean. The pieces are the micro-batches of an update on all devices;
    at least two are needed. Where updates are single pieces, `BatchSizeScheduler(split_every=n)` cuts every n-th in two. The gradients are
    those before clipping, unscaled under mixed precision, without momentum and weight decay. They are squared and summed while they are
    computed, and the devices add up six numbers per measurement. Training with it is bitwise equal to training without it, if the plan is
    the same.

    | where | keys |
    | --- | --- |
    | loggers | noise/gns, B_simple; noise/gns_low and noise/gns_high, its confidence interval; |
    | | noise/grad_sq_norm, |G|^2; noise/grad_cov_trace, tr(Sigma); noise/batch_efficiency, 1/(1 + B/B_simple) |
    | gradient_noise.csv | step; epoch and examples_seen, at the start of the update; size, B; grad_sq_norm and grad_cov_trace of this |
    | | update alone; gns, gns_low, gns_high and batch_efficiency of the averages |

    The logged |G|^2 and tr(Sigma) are averages over the measurements, with the weight decay^i for that of i measurements ago, each relative
    to the tr(Sigma) of its time, see `gradients.RecentNoise`; B_simple is their ratio. It is nan while the average of |G|^2 is not above 0;
    |G|^2 itself is logged as it is, see `gradients.estimate`. It is in examples; with `BatchSizeScheduler(weight=...)` in the unit of the
    weights, such as tokens, as if these were independent. A plan that goes by it is told B_simple where its interval is bounded, and the
    lower end everywhere.

    With batch norm, each piece is normalised by itself, so the pieces are draws of a loss that depends on their size: a line says so, and
    the tags end in `_batch_norm`. With `ghost_batch_size`, pieces are whole ghost batches, and what is measured is the noise of the loss of
    ghost batches, which does not depend on how an update is cut.

    Args:
        every_n_updates: n, >= 1: the n-th, 2n-th, ... updates are measured; None: the `split_every` of the plan, or 50.
        decay: in [0, 1).
        confidence: of the interval, in (0, 1), see `NoiseAverage.interval`.
        path: the CSV file; None: gradient_noise.csv in the trainer's log_dir; False: no file.

    Raises:
        ConfigError: an argument is out of its range; a strategy that divides the module among devices; n is not a multiple of
            `split_every`.

    Not to be confused with the SGD noise scale g, which `NoiseScaleMonitor` logs.
    Source: McCandlish et al. 1812.06162.
    """

    provides = frozenset({GRADIENT_NOISE_SCALE, LEAST_NOISE_SCALE})
    """What a plan may go by, see `plans.adaptive.FollowNoise`."""

    def __init__(
        self,
        every_n_updates: int | None = None,
        decay: float = 0.9,
        confidence: float = 0.95,
        path: str | Path | bool | None = None,
    ) -> None:
        check_gradient_noise(every_n_updates, decay, confidence)
        self.every_n_updates, self.confidence, self.path = every_n_updates, confidence, path
        self.average = self._empty = RecentNoise(NoiseAverage(decay))
        self._every = every_n_updates or EVERY
        self._norms: PieceNorms | None = None
        self._size = 0  # examples of a micro-batch; a plan knows them
        self._file: AppendedRows | None = None
        self._saved: dict[str, Any] = {}
        self._counts = Counts()
        self._fitting, self._said, self._suffix = True, False, ""
        self._listen(False, *MEASURING)

    # -- when -----------------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"
        if not self._fitting:
            return
        self._saved = {}
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            name = type(trainer.strategy).__name__
            raise ConfigError("callbacks", type(self).__name__, f"{name} divides the gradients among the devices", "use ddp")
        if not pl_module.automatic_optimization:
            raise ConfigError("callbacks", type(self).__name__, "needs automatic optimization", "let Lightning step the optimizer")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader = trainer.train_dataloader
        plan = loader.plan if isinstance(loader, PlannedLoader) else None
        self._listen(plan is None, "on_train_batch_start")
        split = None if plan is None else plan.split_every
        self._every = self.every_n_updates or split or EVERY
        check_measured_updates(self._every, split)
        saved, self._saved = self._saved, {}
        if not saved and trainer.global_step == 0:  # the callback may have been used in another run
            self.average = self._empty
            self._counts = Counts()
        self._open(trainer, saved)
        self._tell(trainer)
        self._suffix = "_batch_norm" if pieces_share_statistics(pl_module) else ""
        if self._suffix:
            rank_zero_info(
                "GradientNoiseScale: with batch norm each piece of an update is normalised by itself, so B_simple depends on the sizes of "
                "the pieces, and its tags end in _batch_norm; batch norm with a ghost_batch_size fixes the size"
            )
        if isinstance(loader, PlannedLoader) and not loader.plan.finished(loader.cursor):
            self._start_inside(trainer, loader, saved)
            say_if_nothing_can_be_measured(loader.plan, self._every)
            check_what_the_plan_goes_by(loader.plan, self._every, self._empty.average.decay)

    def _start_inside(self, trainer: pl.Trainer, loader: PlannedLoader, saved: dict[str, Any]) -> None:
        """Go on inside an update of which some micro-batches are done, if what was measured of them is known."""
        pieces = saved.get("pieces") or []
        if loader.micro_batches_done and len(pieces) == loader.micro_batches_done and self._has_turn(trainer):
            self._arm(trainer, pieces)

    def _has_turn(self, trainer: pl.Trainer) -> bool:
        return (trainer.global_step + 1) % self._every == 0

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        if self._norms is not None:  # of an update that was not finished
            self._disarm()
        if self._has_turn(trainer):
            self._arm(trainer)

    def _arm(self, trainer: pl.Trainer, pieces: Any = ()) -> None:
        self._norms = PieceNorms(trainer, pieces)
        self._listen(True, *MEASURING)

    def _disarm(self) -> None:
        if self._norms is not None:
            self._norms.close()
        self._norms = None
        self._listen(False, *MEASURING)

    def _listen(self, on: bool, *hooks: str) -> None:
        """Have some hooks or not: Lightning skips a hook that is None."""
        for name in hooks:
            if on:
                vars(self).pop(name, None)
            else:
                setattr(self, name, None)

    # -- what -----------------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._has_turn(trainer):
            self._size = extract_batch_size(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        assert self._norms is not None
        self._norms.start_piece(trainer, self._size)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        # All of the update is measured by now, so that whoever saves a checkpoint after it saves this, too.
        assert self._norms is not None
        norms = self._norms
        sums = norms.finish(trainer)
        self._disarm()
        if sums is None:
            self._say_parts()
            return
        found = estimate(*sums)
        if found is not None:
            self.average = self.average.with_estimate(found)
            self._counts = self._counts.with_interval(*self.average.interval(self.confidence))
            self._tell(trainer)
            self._report(trainer, found)

    def _tell(self, trainer: pl.Trainer) -> None:
        """Let a plan that goes by it know B_simple, as far as it is sure enough to act on."""
        low, high = self.average.interval(self.confidence)
        value = self.average.noise_scale if math.isfinite(low) and math.isfinite(high) else math.nan
        for callback in untyped(trainer).callbacks:
            if isinstance(callback, BatchSizeScheduler):
                callback.measured(GRADIENT_NOISE_SCALE, value)
                callback.measured(LEAST_NOISE_SCALE, low)

    def _say_parts(self) -> None:
        if not self._said:
            self._said = True
            rank_zero_warn(
                "GradientNoiseScale cannot measure an update whose parameters get their gradients in several parts, as with "
                "checkpoint(use_reentrant=True); use_reentrant=False avoids it"
            )

    def _report(self, trainer: pl.Trainer, found: NoiseEstimate) -> None:
        if not trainer.is_global_zero:
            return
        loader, average, step = trainer.train_dataloader, self.average, trainer.global_step
        update = loader.current.update if isinstance(loader, PlannedLoader) and loader.current is not None else None
        seen = round(step * found.size) if update is None else update.start.examples_seen
        epoch = float(trainer.current_epoch) if update is None else update.epoch
        low, high = average.interval(self.confidence)
        efficiency = batch_efficiency(found.size, average.noise_scale)
        values = {
            "gns": average.noise_scale,
            "gns_low": low,
            "gns_high": high,
            "grad_sq_norm": average.square,
            "grad_cov_trace": average.trace,
            "batch_efficiency": efficiency,
        }
        tagged = {f"noise/{name}{self._suffix}": value for name, value in values.items()}
        log_scalars(trainer, [Scalars(tagged, step, seen, time.time())])
        if self._file is not None:
            ratio = (average.noise_scale, low, high, efficiency)
            self._file.append([(step, epoch, seen, found.size, found.grad_sq_norm, found.grad_cov_trace, *ratio)])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._disarm()
        if line := self._counts.in_words():
            rank_zero_info(f"GradientNoiseScale: {line}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._disarm()

    # -- state ----------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The averages, the pieces of an unfinished update, and how far the file goes."""
        return {
            "recent": asdict(self.average),
            "counts": list(self._counts),
            "pieces": [] if self._norms is None else self._norms.state(),
            "file": None if self._file is None else asdict(self._file.sync()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._fitting:  # otherwise the weights of a checkpoint are tested or validated
            self._saved = state_dict
            recent = state_dict["recent"]
            self.average = RecentNoise(NoiseAverage(**{**recent["average"], "decay": self._empty.average.decay}), recent["scale"])
            self._counts = Counts(*state_dict["counts"])

    def _open(self, trainer: pl.Trainer, saved: dict[str, Any]) -> None:
        self._file = None
        if self.path is False or getattr(trainer, "fast_dev_run", False):
            return
        # reading log_dir is a collective operation, so every device has to do it
        folder = trainer.log_dir or trainer.default_root_dir if self.path in (None, True) else None
        if trainer.is_global_zero:
            path = Path(folder) / "gradient_noise.csv" if folder is not None else Path(str(self.path))
            extent = Extent(**saved["file"]) if saved.get("file") else None
            self._file = AppendedRows(path, COLUMNS, trainer.global_step, folder == trainer.default_root_dir, extent)
