"""The job of curvature.py: measure a checkpoint with the module and the data of its own run, or the line to another checkpoint."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from noisescale.app.checks import check_targets
from noisescale.app.composed import read_config
from noisescale.app.config import as_plain, errors_under, output_dir
from noisescale.app.devices import accelerator_of
from noisescale.app.libraries import import_libraries
from noisescale.app.measurement_checks import curvature_options
from noisescale.app.studied import says_what_is_kept
from noisescale.errors import ConfigError, check_count, check_number
from noisescale.files import write_atomically, write_rows
from noisescale.plans.curvature_options import CurvatureOptions
from noisescale.plans.plan import Plan
from noisescale.progress import Progress, progress_bar

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from noisescale.measures.module_surface import Measured
    from noisescale.studies.curvature_table import Checkpoint

__all__ = ["curvature"]

Show = Progress | None


def curvature(cfg: DictConfig) -> int:
    """Measure `curvature.ckpt`, print a table and write curvature.json; or the line to `curvature.to`: line.csv and line.png. Returns 0.

    Args:
        cfg: the recorded config of the run, with the group `curvature`.

    Raises:
        ConfigError: a key is invalid; the checkpoint does not fit the run; the loss cannot be measured as a function of the weights.
    """
    with errors_under("curvature"):
        options = curvature_options(as_plain(cfg.curvature))
        _check_line(cfg.curvature.points, cfg.curvature.span)
    OmegaConf.update(cfg, "trainer.devices", 1)  # the recorded run may have had several
    OmegaConf.update(cfg, "trainer.num_nodes", 1, force_add=True)
    run = read_config(cfg)
    import_libraries()
    check_targets(cfg)
    accelerator = accelerator_of(cfg)
    import torch

    from noisescale.app.module import build_module, build_optimizer, check_task, micro_batch_weight
    from noisescale.app.own_data import build_data, set_up, train_size
    from noisescale.app.trainer import quiet_lightning
    from noisescale.app.weights import load_into

    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    quiet_lightning()
    data = build_data(cfg)
    check_task(cfg, data)
    with errors_under("data"):
        data.prepare_data()
    plan = run.plan(train_size(cfg, data))
    set_up(data)
    module = build_module(cfg, data, build_optimizer(cfg))
    checkpoint = load_into(module, "ckpt", cfg.curvature.ckpt)
    known, other = _known(cfg, checkpoint, run.optimizer), None
    if cfg.curvature.to is not None:
        other = {name: tensor.clone() for name, tensor in _state_of_other(cfg, module, checkpoint).items()}
    weight, batch_size = micro_batch_weight(cfg), _batch_size(plan, known.update)

    def measure(trainer: pl.Trainer) -> None:
        from noisescale.measures.module_surface import CannotMeasure, measured
        from noisescale.measures.sharpness import Meter, columns_of

        with progress_bar("measuring") as show:
            meter = Meter(show, len(columns_of(options)))
            try:
                with measured(trainer, module, options, weight, meter.tick) as found:
                    if other is None:
                        _measure(found, options, batch_size, meter, known)
                    else:
                        _line(found, cfg, other, show, known)
            except (CannotMeasure, RuntimeError) as error:
                reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
                raise ConfigError("ckpt", cfg.curvature.ckpt, f"its curvature cannot be measured: {reason}") from error

    from noisescale.execution.quiet import without_lightnings_lines

    with says_what_is_kept("curvature.py", _kept), without_lightnings_lines():
        _inside_fit(cfg, module, data, accelerator, measure)
    return 0


def _kept(folder: Path) -> str:
    """What an interrupted measurement has left."""
    left = [name for name in ("curvature.json", "line.csv") if (folder / name).exists()]
    what = f"what was measured is in {os.path.relpath(folder / left[0])}" if left else "nothing was measured"
    return f"{what}; to measure all of it"


def _check_line(points: Any, span: Any) -> None:
    check_count("points", points, at_least=2)
    values: Any = OmegaConf.to_container(span) if OmegaConf.is_config(span) else span
    if not isinstance(values, list) or len(values) != 2:
        raise ConfigError("span", values, "must be two numbers, from and to", "for example span=[-0.5,1.5]")
    for value in values:
        check_number("span", value, remedy=f"given: {values}")
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ConfigError("span", values, "must be increasing", "for example span=[-0.5,1.5]")


def _known(cfg: DictConfig, checkpoint: dict[str, Any], optimizer: str) -> Checkpoint:
    from noisescale.studies.curvature_table import Checkpoint

    optimizers = checkpoint.get("optimizer_states") or [{}]
    groups = optimizers[0].get("param_groups") or [{}]
    lr = groups[0].get("lr")
    return Checkpoint(
        os.path.relpath(cfg.curvature.ckpt),
        int(checkpoint.get("global_step", 0)),
        optimizer,
        None if lr is None else float(lr),
        float(groups[0].get("momentum") or 0.0),
    )


def _batch_size(plan: Plan, updates: int) -> int | None:
    """B of the last of the first `updates` updates, or of the first one, before it was made to fit the end of a pass."""
    last = None
    for stretch in plan.sizes():
        last = stretch.planned_batch_size
        if stretch.step + stretch.updates >= updates:
            break
    return last


def _state_of_other(cfg: DictConfig, module: pl.LightningModule, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The state of the checkpoint `to`, which is loaded once to see that it fits; the module then has its own again."""
    from noisescale.app.weights import load_into

    found: dict[str, Any] = load_into(module, "to", cfg.curvature.to)["state_dict"]
    module.load_state_dict(checkpoint["state_dict"])
    return found


def _measure(found: Measured, options: CurvatureOptions, batch_size: int | None, meter: Any, known: Checkpoint) -> None:
    """Print the table; curvature.json has what is measured as soon as it is."""
    from noisescale.measures.sharpness import curvature_of, said_of_sizes
    from noisescale.studies.curvature_table import print_curvature

    file, values = output_dir() / "curvature.json", dict[str, float]()
    about = {"ckpt": known.name, "update": known.update, "lr": known.lr, "examples": found.examples, "num_examples": found.num_examples}
    about |= {"parameters": found.surface.size, "mode": options.mode, "seed": options.seed}
    for name, value in curvature_of(found, options, batch_size, meter):
        values[name] = value
        _write_json(file, {**about, "complete": False, **values})
    _write_json(file, {**about, "complete": True, **values})
    examples = f"{found.examples} of {found.num_examples} training examples"
    for note in said_of_sizes(found, options):
        print(f"note: curvature.{note}", file=sys.stderr)
    print_curvature(values, options, known, examples, found.surface.size)
    print(os.path.relpath(file))


def _line(found: Measured, cfg: DictConfig, other: dict[str, Any], show: Show, known: Checkpoint) -> None:
    from noisescale.measures.line import line_places, loss_along_line
    from noisescale.studies.line_figure import draw_line

    first, last = cfg.curvature.span
    places, points = line_places(float(first), float(last), cfg.curvature.points), list[tuple[float, float]]()
    table, figure = output_dir() / "line.csv", output_dir() / "line.png"
    for point in loss_along_line(found, other, places):
        points.append(point)
        write_rows(table, ("t", "loss"), [{"t": t, "loss": loss} for t, loss in points], durable=False)
        if show is not None:
            show(len(points) / len(places), "the loss between two checkpoints")
    draw_line(points, (known.name, os.path.relpath(cfg.curvature.to)), figure)
    ends, between = dict(points), [(loss, t) for t, loss in points if 0 <= t <= 1 and math.isfinite(loss)]
    at = ", ".join(f"{name} {ends[t]:.4g}" for name, t in (("a", 0.0), ("b", 1.0)) if t in ends)
    print(f"loss on {found.examples} of {found.num_examples} training examples, {cfg.curvature.mode} mode: {at}")
    if between:
        print(f"highest between them: {max(between)[0]:.4g} at t = {max(between)[1]:.3g}")
    for path in (table, figure):
        print(os.path.relpath(path))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in content.items()}
    write_atomically(path, json.dumps(finite, indent=2) + "\n", durable=False)


def _inside_fit(
    cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, accelerator: str, measure: Callable[[pl.Trainer], None]
) -> None:
    """Call `measure` where a training would begin: module, data and trainer know each other, and nothing is trained."""
    import pytorch_lightning as pl

    class Measuring(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            measure(trainer)
            trainer.should_stop = True

    precision = cfg.trainer.get("precision")
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=precision if str(precision) in ("64", "64-true") else None,
        max_epochs=cfg.epochs,
        callbacks=[Measuring()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=data)
