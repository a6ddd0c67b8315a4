"""The main job: from a composed config to a trained model and its files."""

from __future__ import annotations

import atexit
import gc
import logging
import math
import os
import sys
import time
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from noisescale.app.command import as_plain, build, errors_under, in_sweep, options, output_dir, refusal
from noisescale.app.composed import followed_rule, ghost_batch_size, known_examples, optimizer_of, plan_of, schedule_and_strategy
from noisescale.app.results import log_hyperparameters, report, versions, write_results
from noisescale.errors import ConfigError, check_count
from noisescale.plans.plan import Plan
from noisescale.plans.warnings import cap_warnings, rule_warnings

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from noisescale.plans.strategies import BatchStrategy
    from noisescale.schedules import Schedule

__all__ = ["import_libraries", "train"]

DIVERGED = 3
"""Exit status of a single run whose loss became nan or inf."""


def train(cfg: DictConfig, script: Path) -> int:
    """Train, test, and leave results.json; returns the exit status: 0, or 3 for a run that diverged.

    What does not need torch is checked before it is imported, and what does not need the data before they are read.

    Args:
        cfg: the composed config.
        script: the front door, started again for each further device.

    Raises:
        ConfigError: input that cannot be carried out.
    """
    schedule, strategy = schedule_and_strategy(cfg)
    if cfg.data.size is not None:
        raise ConfigError("data.size", cfg.data.size, "stands in place of data, for plan.py", "leave it at null to train")
    devices = _devices(cfg)
    known = known_examples(cfg)
    if known is not None:
        plan_of(cfg, schedule, strategy, known)  # says what does not fit before the long imports
    import_libraries()
    from noisescale.app.launchers.ranks import is_child, other_ranks

    data = build(cfg, "data")
    with errors_under("data"):
        n = data.train_size()
    plan = plan_of(cfg, schedule, strategy, n)
    if not is_child():
        for note in [*followed_rule(cfg, strategy), *rule_warnings(plan, *optimizer_of(cfg)), *cap_warnings(plan, plan)]:
            print(f"note: {note}", file=sys.stderr)
        with errors_under("data"):
            data.prepare_data()
    with other_ranks(devices, script, output_dir()):
        return _run(cfg, schedule, strategy, data, plan)


def _identity(cfg: DictConfig) -> dict[str, Any]:
    """The choices that a resumed run must not change: what is learned, from which examples, by which rule; not how it is computed."""
    free = ("root", "download", "size", "num_workers", "eval_batch_size", "in_memory", "memory_limit_gb", "cache", "seed", "_partial_")
    compute = ("channels_last", "compile", "fused", "foreach")
    choices: dict[str, Any] = {"seed": cfg.seed, "label_smoothing": cfg.label_smoothing}
    for group in ("data", "model", "optimizer"):
        choices |= {f"{group}.{key}": value for key, value in as_plain(cfg[group]).items() if key not in (*free, *compute)}
    return choices


@cache
def import_libraries() -> None:
    """Import what every training needs, with the garbage collector at rest; it would search the growing heap again and again.

    What was imported is then left out of its searches, but for those at the end of the process.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        for name in ("pytorch_lightning", "torch._dynamo", "noisescale.callbacks", "noisescale.data", "noisescale.models"):
            import_module(name)  # of torch._dynamo every optimizer of torch has need
    finally:
        if collects:
            gc.enable()
    gc.freeze()
    atexit.register(gc.unfreeze)  # extension modules complain of what is never freed


def _devices(cfg: DictConfig) -> int:
    """Devices of the run, W; all of them must be there. Imports torch to count GPUs only."""
    check_count("trainer.devices", cfg.trainer.devices, unit="devices")
    count: int = cfg.trainer.devices
    if cfg.trainer.accelerator == "gpu":
        import_libraries()
        import torch

        there, kind, remedy = torch.cuda.device_count(), "GPUs", "use trainer=cpu or ddp_cpu"
    else:
        there, kind, remedy = max(2, os.cpu_count() or 1), "CPU processes", "one process uses all cores"
    if count > there:
        raise ConfigError("trainer.devices", count, f"this machine has {there} {kind}", remedy)
    return count


def _run(cfg: DictConfig, schedule: Schedule, strategy: BatchStrategy, data: Any, plan: Plan) -> int:
    import pytorch_lightning as pl
    import torch

    from noisescale.callbacks import BatchSizeScheduler, SameRun, TrainingDiverged
    from noisescale.models.classifier import Classifier
    from noisescale.models.optimizers import OptimizerFactory

    _quiet()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    make_optimizer = build(cfg, "optimizer")
    with errors_under("optimizer"):
        optimizer = OptimizerFactory.from_config(make_optimizer)
    with errors_under("data"):
        data.setup()
    pl.seed_everything(cfg.seed, verbose=False)
    net = build(cfg, "model", in_channels=data.in_channels, num_classes=data.num_classes, image_size=data.image_size)
    module = Classifier(net, optimizer, data.num_classes, label_smoothing=cfg.label_smoothing)
    batches = BatchSizeScheduler(
        strategy,
        schedule,
        max_micro_batch_size=cfg.max_micro_batch_size,
        micro_batch_multiple=ghost_batch_size(cfg),
        seed=cfg.seed,
    )
    always: list[pl.Callback] = [batches, SameRun(_identity(cfg))]
    if cfg.model.get("compile"):
        from noisescale.execution.compile_first import CompileFirst

        always.append(CompileFirst((data.in_channels, *data.image_size), cfg.model.compile))
    trainer = _trainer(cfg, always, data)

    status, started, message = "completed", time.perf_counter(), ""
    metrics: dict[str, float] = {}
    try:
        trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    except TrainingDiverged as error:
        status, message = "diverged", str(error)
    except (KeyboardInterrupt, SystemExit):
        status = "interrupted"
    except ConfigError as error:
        raise (error.under("trainer") if error.key in cfg.trainer else error) from error
    except Exception as error:
        unreadable = _unreadable(error)
        if unreadable is not None:
            raise ConfigError(
                "data.root", cfg.data.root, f"since the start, {unreadable}", "repair it, and resume with ckpt_path"
            ) from error
        if cfg.ckpt_path is None or (batches.loader is not None and batches.loader.current is not None):
            raise
        reason = " ".join(str(error).split("\n\t")[0:2])
        remedy = "resume with the model, the optimizer and the data that it was saved with"
        raise ConfigError("ckpt_path", cfg.ckpt_path, f"does not fit this run ({reason})", remedy) from error
    seconds = time.perf_counter() - started
    updates = trainer.global_step
    examples = batches.loader.cursor.examples_seen if batches.loader is not None else 0
    if status == "completed" and cfg.ckpt_path is not None and batches.loader is not None and batches.loader.current is None:
        raise ConfigError("ckpt_path", cfg.ckpt_path, f"is already at the end, epoch {trainer.current_epoch}", "raise epochs to go on")
    if status == "completed":
        try:
            tested = trainer.test(module, datamodule=data, verbose=False)
            metrics |= {name: float(value) for name, value in tested[0].items()} if tested else {}
        except (KeyboardInterrupt, SystemExit):
            status = "interrupted"
        if not all(math.isfinite(value) for value in metrics.values()):
            status = "diverged"
            message = f"training diverged: the last update left weights that give {_not_finite(metrics)}; lower optimizer.lr"
    if trainer.is_global_zero:
        results = {
            **metrics,
            "updates": updates,
            "examples": examples,
            "seconds": round(seconds, 3),
            "examples_per_second": round((examples - batches.examples_before) / seconds, 1),
            "num_examples": plan.num_examples,
            "status": status,
            "message": message,
            "seed": cfg.seed,
            **versions(),
        }
        write_results(results)
        log_hyperparameters(trainer, _parameters(cfg), metrics)
        report(results)
    if status == "interrupted":
        raise KeyboardInterrupt
    return DIVERGED if status == "diverged" else 0


def _trainer(cfg: DictConfig, always: list[pl.Callback], data: Any) -> pl.Trainer:
    import pytorch_lightning as pl

    from noisescale.execution.lean import NoProfiler

    callbacks = build(cfg, "callbacks")
    chosen = always
    for name, callback in callbacks.items():
        if callback is None:
            continue  # switched off: callbacks.best=null
        if not isinstance(callback, pl.Callback):
            raise ConfigError(f"callbacks.{name}", callback, "must be a callback", f"give callbacks.{name}._target_ and its arguments")
        needs_validation = str(getattr(callback, "monitor", None) or "").startswith("val/")
        if name == "progress_bar" and (in_sweep() or not sys.stderr.isatty()):
            continue  # bars of several runs, or in a log file, are noise
        if not (needs_validation and data.val_fraction == 0):
            chosen.append(callback)
    logger = _logger(cfg) if cfg.logger else False
    bar = any("ProgressBar" in type(callback).__name__ for callback in chosen)
    saves = any("Checkpoint" in type(callback).__name__ for callback in chosen)
    trainer: pl.Trainer = build(
        cfg,
        "trainer",
        callbacks=chosen,
        logger=logger,
        enable_progress_bar=bar,
        enable_checkpointing=saves,
        use_distributed_sampler=False,
        **({} if cfg.trainer.get("profiler") is not None else {"profiler": NoProfiler()}),
    )
    return trainer


def _logger(cfg: DictConfig) -> Any:
    from pytorch_lightning.loggers import Logger

    logger = build(cfg, "logger")
    if not isinstance(logger, Logger):
        key = next(iter(cfg.logger))
        raise ConfigError(f"logger.{key}", cfg.logger[key], "has no logger to go to", "choose logger=tensorboard, or set logger._target_")
    try:
        # Lightning would make it at the first value, and only then refuse what its writer does not know.
        getattr(logger, "experiment", None)
    except Exception as error:
        refused = refusal(cfg, "logger", error)
        if refused is None:
            raise
        raise refused from error
    return logger


def _unreadable(error: Exception) -> str | None:
    """Which image of those that are streamed could not be read, and why; None for another error."""
    name = "ImageFileError"
    if type(error).__name__ == name:
        return str(error)
    # A worker of a DataLoader sends its trace as text, whose last line says it.
    return str(error).rpartition(f"{name}: ")[2].strip() if f"{name}: " in str(error) else None


def _parameters(cfg: DictConfig) -> dict[str, Any]:
    """What distinguishes one run from another."""
    left_out = ("callbacks", "logger", "trainer", "output_dir", "full_error", "ckpt_path")
    params = {key: value for key, value in as_plain(cfg).items() if key not in left_out}
    return params | {f"{group}/option": name for group, name in options().items() if group in params}


def _not_finite(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value))


@cache
def _quiet() -> None:
    """Keep our own lines and drop Lightning's advertisements and those of its warnings that do not apply here."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    log.addFilter(lambda record: "noisescale" in record.pathname)
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    for message in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*exists and is not empty.*",
        ".*smaller than the logging interval.*",
        ".*dirpath has changed.*",
    ):
        warnings.filterwarnings("ignore", message=message)
