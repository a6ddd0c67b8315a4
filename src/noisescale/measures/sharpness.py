"""Measure the curvature of a training's loss: after every n-th epoch, and at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from noisescale.errors import ConfigError
from noisescale.execution.lean import LeanCallback
from noisescale.execution.loader import PlannedLoader
from noisescale.files import AppendedRows, Extent
from noisescale.measures.curvature import batch_sharpness, keskar_phi, largest_eigenvalue, random_directions
from noisescale.measures.dashboards import Scalars, log_scalars
from noisescale.measures.module_surface import Measured, measured
from noisescale.plans.curvature_options import CurvatureOptions, check_when
from noisescale.progress import Progress

__all__ = ["Sharpness", "columns_of", "curvature_of", "phi_name", "said_of_sizes"]

PASSES = {"lambda_max": 60, "phi": 20}
"""About how many passes over the examples a quantity takes, for the progress bar."""


def phi_name(radius: float, dimensions: int | None) -> str:
    """`keskar_phi_0.001`, or `keskar_phi_0.001_in_100` for a subspace of 100 dimensions."""
    return f"keskar_phi_{radius:g}" + ("" if dimensions is None else f"_in_{dimensions}")


def columns_of(options: CurvatureOptions) -> list[str]:
    """The names of what `curvature_of` measures, in its order."""
    names = ["loss"]
    names += [] if options.tolerance is None else ["lambda_max", "lambda_max_residual"]
    names += ["batch_size", "batch_sharpness", "batch_sharpness_error", "batch_sharpness_of_means"] if options.batches else []
    return [*names, *(phi_name(*space) for space in options.spaces)]


def curvature_of(
    found: Measured, options: CurvatureOptions, batch_size: int | None, meter: Meter | None = None
) -> Iterator[tuple[str, float]]:
    """(name, value) of each quantity of `columns_of`, as they are measured; nan for what is not defined. All devices call it together.

    Args:
        found: the module.
        options: what is measured; `batch_size` in it wins over the argument.
        batch_size: B of the training; None: not known, and batch sharpness is nan.
        meter: shows the progress.
    """
    surface, meter = found.surface, meter or Meter()
    yield "loss", surface.loss()
    if options.tolerance is not None:
        meter.start("lambda_max", PASSES["lambda_max"] * found.chunks)
        top = largest_eigenvalue(surface.product, surface.size, tolerance=options.tolerance, seed=options.seed)
        yield "lambda_max", top.value
        yield "lambda_max_residual", top.residual
    if options.batches:
        size = min(options.batch_size or batch_size or 0, found.num_examples)
        meter.start("batch sharpness", 2 * options.batches * -(-size // options.chunk_size))
        sharp = (
            batch_sharpness(surface.along_gradient(batch) for batch in found.batches(size, options.batches))
            if size
            else batch_sharpness([])
        )
        yield "batch_size", size
        yield "batch_sharpness", sharp.value
        yield "batch_sharpness_error", sharp.standard_error
        yield "batch_sharpness_of_means", sharp.ratio_of_means
    x = surface.point()
    for radius, dimensions in options.spaces:
        meter.start(f"phi, epsilon {radius:g}", PASSES["phi"] * found.chunks)
        directions = None if dimensions is None else random_directions(surface.size, min(dimensions, surface.size), options.seed)
        phi = keskar_phi(surface.loss_and_gradient, x, radius, directions=directions, iterations=options.iterations, seed=options.seed)
        yield phi_name(radius, dimensions), phi


def said_of_sizes(found: Measured, options: CurvatureOptions) -> list[str]:
    """Lines about what is measured with smaller sizes than were asked for, because there is no more."""
    notes, n, parameters = [], found.num_examples, found.surface.size
    if options.batches and options.batch_size is not None and options.batch_size > n:
        notes.append(f"batch_size={options.batch_size} is more than N = {n}, so that batch sharpness is that of all examples")
    if options.radii and options.subspace is not None and options.subspace > parameters:
        notes.append(f"subspace={options.subspace} is more than the {parameters} parameters, so that it is the full space")
    return notes


class Meter:
    """How far a measurement of several quantities is: their number is known, how long each takes is estimated.

    Args:
        show: shows the share that is done, and of what; None: nothing is shown.
        quantities: how many there are.
    """

    def __init__(self, show: Progress | None = None, quantities: int = 1) -> None:
        self._show, self._quantities = show, quantities
        self._begun, self._passes, self._expected, self._name = -1, 0, 1, ""

    def start(self, name: str, expected: int) -> None:
        """The next quantity begins, which takes about `expected` forward passes."""
        self._begun, self._passes, self._expected, self._name = self._begun + 1, 0, max(1, expected), name

    def tick(self) -> None:
        """A forward pass is done."""
        self._passes += 1
        if self._show is not None:
            self._show((max(0, self._begun) + min(0.99, self._passes / self._expected)) / self._quantities, self._name)


class Sharpness(LeanCallback):
    """Measure the curvature of the loss of `training_step` on fixed training examples: lambda_max, batch sharpness, and Keskar's phi.

    | where | keys |
    | --- | --- |
    | curvature.csv | update, how many are done; epoch, as in steps.csv; seconds, of the measurement; loss, f on the examples; |
    | | lambda_max, and lambda_max_residual, relative, see `curvature.largest_eigenvalue`; |
    | | batch_size, batch_sharpness, batch_sharpness_error, batch_sharpness_of_means, see `curvature.batch_sharpness`; |
    | | keskar_phi_0.001 for epsilon = 0.001, keskar_phi_0.001_in_100 in a subspace of 100 dimensions, see `curvature.keskar_phi` |
    | loggers | all of them but the first three, as curvature/lambda_max, ... |

    It measures a copy of the module, in evaluation mode unless `mode` says otherwise, and training with it is bitwise equal to training
    without it. The loss has no weight decay, and the batches are not augmented by the template. With `averaging` the weights are those that
    are trained, not their average. Several devices share the work; each gets the same numbers, and the first one writes them. A module
    whose loss is no function of its weights, or cannot be differentiated twice, is said to be so in one line; the training goes on.

    None of these numbers says by itself how well a network generalises: see docs/curvature.md.

    Args:
        every_n_epochs: n >= 1: after the n-th, 2n-th, ... epoch; None: only at the end.
        at_end: also when the training ends, after however many updates.
        path: the CSV file; None: curvature.csv in the trainer's log_dir; False: no file.
        options: see `CurvatureOptions`, whose arguments these are.

    Raises:
        ConfigError: an argument is out of its range.

    Sources: Keskar et al. 1609.04836 (phi); Andreyev & Beneventano 2412.20553 (batch sharpness).
    """

    def __init__(
        self, every_n_epochs: int | None = None, at_end: bool = True, path: str | Path | bool | None = None, **options: Any
    ) -> None:
        check_when(every_n_epochs, at_end)
        self.every_n_epochs, self.at_end, self.path = every_n_epochs, at_end, path
        self.options = _options(options)
        self._file: AppendedRows | None = None
        self._saved: dict[str, Any] = {}
        self._measured_at: int | None = None
        self._fitting, self._announced = True, False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"
        if self._fitting:
            self._saved, self._measured_at, self._announced = {}, None, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        saved, self._saved = self._saved, {}
        if self.path is not False and not getattr(trainer, "fast_dev_run", False):
            # reading log_dir is a collective operation, so every device has to do it
            folder = trainer.log_dir or trainer.default_root_dir if self.path in (None, True) else None
            path = Path(folder) / "curvature.csv" if folder is not None else Path(str(self.path))
            if trainer.is_global_zero:
                columns = ("update", "epoch", "seconds", *columns_of(self.options))
                start = trainer.global_step + 1 if trainer.global_step else 0
                self._file = AppendedRows(path, columns, start, extent=Extent(**saved["file"]) if saved.get("file") else None)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loader = trainer.train_dataloader
        is_over = not isinstance(loader, PlannedLoader) or loader.epoch_is_over
        done = trainer.current_epoch + 1
        if self.every_n_epochs is not None and is_over and done % self.every_n_epochs == 0:
            self._measure(trainer, pl_module, done)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.at_end and self._measured_at != trainer.global_step:
            self._measure(trainer, pl_module, trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """How far the file goes; all rows are in it."""
        return {"file": None if self._file is None else asdict(self._file.sync())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._fitting:
            self._saved = state_dict

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule, epochs: int) -> None:
        """Measure and write; `epochs` are done, as the trainer counts them."""
        self._measured_at, began = trainer.global_step, time.perf_counter()
        try:
            with measured(trainer, module, self.options) as found:
                self._announce(found)
                values = dict(curvature_of(found, self.options, _batch_size(trainer)))
        except Exception as error:  # whatever the module's own code raises
            reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
            rank_zero_warn(f"Sharpness could not measure the curvature after {trainer.global_step} updates ({reason})")
            return
        self._write(trainer, values, time.perf_counter() - began, epochs)

    def _announce(self, found: Measured) -> None:
        if self._announced:
            return
        self._announced = True
        when = [f"after every {self.every_n_epochs} epochs"] if self.every_n_epochs is not None else []
        for note in said_of_sizes(found, self.options):
            rank_zero_info(f"Sharpness: {note}")
        rank_zero_info(
            f"Sharpness: {found.examples} of {found.num_examples} training examples, in {self.options.mode} mode, "
            f"{' and '.join([*when, *(['at the end'] if self.at_end else [])])}"
        )

    def _write(self, trainer: pl.Trainer, values: dict[str, float], seconds: float, epochs: int) -> None:
        if not trainer.is_global_zero:
            return
        loader, updates = trainer.train_dataloader, trainer.global_step
        planned = isinstance(loader, PlannedLoader)
        epoch = loader.cursor.position / loader.plan.num_examples if planned else epochs  # type: ignore[union-attr]
        if self._file is not None:
            self._file.append([(updates, epoch, round(seconds, 3), *values.values())])
        tags = {f"curvature/{name}": float(value) for name, value in values.items()}
        if planned:
            seen = loader.cursor.examples_seen  # type: ignore[union-attr]
            log_scalars(trainer, [Scalars(tags, updates - 1, seen, time.time())])
        else:
            for logger in trainer.loggers:
                logger.log_metrics(tags, step=updates - 1)


def _options(given: dict[str, Any]) -> CurvatureOptions:
    """The options, whose lists may be those of a config."""
    unknown = next((key for key in given if key not in CurvatureOptions.__dataclass_fields__), None)
    if unknown is not None:
        problem = "is not an argument of Sharpness"
        raise ConfigError(unknown, given[unknown], problem, f"its arguments: {', '.join(CurvatureOptions.__dataclass_fields__)}")
    return CurvatureOptions(**given)


def _batch_size(trainer: pl.Trainer) -> int | None:
    """The effective batch size of the last update, before it was made to fit the end of a pass; None if it is not known."""
    loader = trainer.train_dataloader
    if isinstance(loader, PlannedLoader):
        return None if loader.current is None else loader.current.update.planned_batch_size
    size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return None if not isinstance(size, int) else size * int(trainer.accumulate_grad_batches) * trainer.world_size
