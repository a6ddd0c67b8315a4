"""Run a training and report how it ended: its status, its metrics, and errors in terms of the config's keys."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytorch_lightning as pl
from omegaconf import DictConfig

from noisescale.app.ending import PLANS_END, as_saved, ending, is_past_its_end, nothing_left
from noisescale.app.faults import RunFailed, failure_of
from noisescale.app.launchers.ranks import lost_process
from noisescale.app.monitors import missing_metric
from noisescale.app.own_data import explain, has_loader, has_step
from noisescale.callbacks import BatchSizeScheduler, StopOnSignal, TrainingDiverged
from noisescale.errors import ConfigError
from noisescale.execution.checkpoint_io import whole_checkpoint
from noisescale.execution.out_of_memory import fault_of
from noisescale.models.tasks import Task
from noisescale.signals import Interrupted

__all__ = ["Outcome", "fit_and_test", "judge"]


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        status: completed | stopped | interrupted | diverged | failed.
        reason: why it ended, for users to read.
        metrics: tag -> value, from the last epoch and from the test.
        updates, examples: totals of the run, including those before it was resumed.
        seconds: time of training and validation in this process.
        micro_batch_limit: the most examples that a device has processed at once; None: no limit.
        examples_per_second: throughput in this process, without the examples before the run was resumed.
        interrupted: what has interrupted it, if a signal or the end of another process has.
        exit: the exit that someone else's handler of a signal asked for, with its status, which may tell a cluster to start the job again.
        failure: what the machine did to a run that failed, such as a full disk.
    """

    status: str = "completed"
    reason: str = PLANS_END
    metrics: dict[str, float] = field(default_factory=dict)
    updates: int = 0
    examples: int = 0
    micro_batch_limit: int | None = None
    seconds: float = 0.0
    examples_per_second: float = 0.0
    interrupted: Interrupted | None = None
    exit: SystemExit | None = None
    failure: RunFailed | None = None

    def fail(self, error: BaseException) -> None:
        """Take note of an error of the machine; any other one is raised."""
        self.failure = failure_of(error)
        if self.failure is None:
            raise error
        self.status, self.reason = "failed", str(self.failure)


def fit_and_test(
    cfg: DictConfig,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    batches: BatchSizeScheduler,
    untested: bool = False,
) -> Outcome:
    """Train to the end of the plan, starting from `cfg.ckpt_path` if it is given, and test a run that was completed or stopped.

    If the checkpoint leaves nothing to train, it is tested if that is all that is left of the run (`untested`), and otherwise refused.

    Raises:
        ConfigError: an error in the config that shows only when training starts; a checkpoint of a different run; an image that cannot be
            read any more.
    """
    outcome = Outcome()
    started = time.perf_counter()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if cfg.ckpt_path is None else whole_checkpoint(str(cfg.ckpt_path)))
        outcome.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    except TrainingDiverged as error:
        outcome.status, outcome.reason = "diverged", str(error)
    except (KeyboardInterrupt, SystemExit) as stop:
        if fault_of(stop) is not None:
            outcome.fail(stop)
        else:
            _interrupt(outcome, stop, f"at update {trainer.global_step}")
    except Exception as error:
        if fault_of(error) is None and (lost := lost_process(error) or _without_workers(error, trainer, module)) is not None:
            _interrupt(outcome, lost, f"at update {trainer.global_step}")
            return _counted(outcome, started, trainer, batches)
        refused = _as_config_error(error, cfg, data, batches) or missing_metric(error, cfg, trainer)
        if refused is not None:
            raise refused from error
        outcome.fail(error)
    _counted(outcome, started, trainer, batches)
    if outcome.status == "completed":
        if cfg.ckpt_path is not None and not _has_started(batches):
            if is_past_its_end(batches) or not trainer.strategy.broadcast(untested):  # only the first process knows what is untested
                raise nothing_left(cfg, trainer, batches)
            outcome.metrics = as_saved(cfg, module, batches)
        outcome.status, outcome.reason = ending(cfg, trainer, batches)
        _test(outcome, trainer, module, data)
    return outcome


def _counted(outcome: Outcome, started: float, trainer: pl.Trainer, batches: BatchSizeScheduler) -> Outcome:
    """`outcome` with the time and the totals of the training."""
    outcome.seconds = time.perf_counter() - started
    outcome.updates, outcome.micro_batch_limit = trainer.global_step, batches.limit.value
    if batches.loader is not None:
        outcome.examples = batches.loader.cursor.examples_seen
    if _has_started(batches):
        outcome.examples_per_second = (outcome.examples - batches.examples_before) / outcome.seconds
    return outcome


def _interrupt(outcome: Outcome, stop: BaseException, where: str) -> None:
    """Note what has interrupted the run; Lightning makes a SystemExit of a KeyboardInterrupt."""
    outcome.status = "interrupted"
    if isinstance(stop, SystemExit) and not isinstance(stop, Interrupted) and not isinstance(stop.__context__, KeyboardInterrupt):
        outcome.exit, outcome.reason = stop, f"a handler of a signal {where}"
        return
    outcome.interrupted = stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT)
    outcome.reason = f"{outcome.interrupted.reason} {where}"


def _without_workers(error: Exception, trainer: pl.Trainer, module: pl.LightningModule) -> Interrupted | None:
    """The signal that was sent to the workers of the DataLoader as well, if their end is why `error` was raised; the run is then saved.

    A cluster sends its signals to all processes of a job, and the update under way cannot be finished without its examples.
    """
    stop = next((callback for callback in _callbacks(trainer) if isinstance(callback, StopOnSignal)), None)
    if stop is None or stop.received is None or trainer.world_size > 1 or "DataLoader worker" not in str(error):
        return None
    saved = stop.save(trainer, module)
    return Interrupted(stop.received, saved=None if saved is None else str(saved))


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]


def _test(outcome: Outcome, trainer: pl.Trainer, module: pl.LightningModule, data: pl.LightningDataModule) -> None:
    """Add the metrics of the test, which may be the first to show that the training diverged."""
    lacking = [
        f"{type(owner).__name__} has no {name}"
        for owner, name, there in (
            (module, "test_step", has_step(module, "test_step")),
            (data, "test_dataloader", has_loader(data, "test")),
        )
        if not there
    ]
    try:
        tested = [] if lacking else trainer.test(module, datamodule=data, verbose=False)
    except (KeyboardInterrupt, SystemExit) as stop:
        _interrupt(outcome, stop, "during the test")
        return
    except Exception as error:
        if (lost := lost_process(error)) is not None:
            _interrupt(outcome, lost, "during the test")
        else:
            outcome.fail(error)
        return
    if lacking and trainer.is_global_zero:
        print(f"note: no test: {' and '.join(lacking)}", file=sys.stderr)
    if tested:
        outcome.metrics |= {name: float(value) for name, value in tested[0].items()}
    judge(outcome, module)


def judge(outcome: Outcome, module: pl.LightningModule) -> None:
    """Call a run diverged if a loss of its end is nan or inf, and name any other metric that is."""
    bad = {name: f"{name} {value}" for name, value in outcome.metrics.items() if not math.isfinite(value)}
    lost = {name: bad.pop(name) for name in _judged(module, outcome.metrics) if name in bad}
    if lost:
        outcome.status = "diverged"
        where = "" if "train/loss" in lost else "the last update left weights that give "
        outcome.reason = f"training diverged: {where}{', '.join(lost.values())}; lower optimizer.lr"
    elif bad and module.global_rank == 0:
        print(f"note: not finite: {', '.join(bad.values())}", file=sys.stderr)


def _judged(module: pl.LightningModule, metrics: Mapping[str, float]) -> tuple[str, ...]:
    """The losses of which none may be nan or inf.

    Nothing is known of what another module logs, and a metric may be nan for reasons of its own, such as an area under a curve with one
    class. A validation may be of an earlier moment, so that its loss counts only where there is no test.
    """
    if not isinstance(module, Task):
        return ()
    return ("train/loss", "test/loss" if "test/loss" in metrics else "val/loss")


def _has_started(batches: BatchSizeScheduler) -> bool:
    """Whether a micro-batch has been loaded."""
    return batches.loader is not None and batches.loader.current is not None


def _as_config_error(error: Exception, cfg: DictConfig, data: pl.LightningDataModule, batches: BatchSizeScheduler) -> ConfigError | None:
    """An error that `Trainer.fit` raised, as a `ConfigError` that says what the user has to change; None if it is a bug."""
    if isinstance(error, ConfigError):
        return error.under("trainer") if error.key in cfg.trainer else error
    unreadable = explain(data, error)
    if unreadable is not None:
        return unreadable.under("data")
    if isinstance(error, RuntimeError) and "multiple optimizers" in str(error):  # Lightning's own check, which comes before ours
        remedy = "return one; its parameter groups may have learning rates of their own"
        return ConfigError("configure_optimizers", "several", "a plan steps exactly one optimizer", remedy)
    if cfg.ckpt_path is None or _has_started(batches) or failure_of(error) is not None:
        return None
    reason = " ".join(str(error).split("\n\t")[0:2])
    remedy = "resume with the model, the optimizer and the data that it was saved with"
    return ConfigError("ckpt_path", cfg.ckpt_path, f"does not fit this run ({reason})", remedy)
