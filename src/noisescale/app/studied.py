"""What the studies of the command line have in common: the training that a config describes, and the folder that it is studied in."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from noisescale.app.changes import PLAN_GROUPS, plan_choices
from noisescale.app.checks import check_config
from noisescale.app.choices import key_of
from noisescale.app.composed import Composed, read_config
from noisescale.app.config import build, errors_under, in_sweep, options, output_dir, typed
from noisescale.app.devices import accelerator_of, check_devices
from noisescale.app.given_words import given
from noisescale.app.interruption import RunInterrupted
from noisescale.app.libraries import import_libraries
from noisescale.app.recorded import compose_from, last_record, read_record
from noisescale.app.resume import Start, run_in, short_path, start_of
from noisescale.app.run_folder import held, refuse_folder_of_another
from noisescale.errors import ConfigError
from noisescale.signals import Interrupted
from noisescale.studies.runs import last_checkpoint, newest_of
from noisescale.studies.study_folders import study_in

if TYPE_CHECKING:
    from noisescale.studies.training import Training

__all__ = ["check_studied", "goes_on_after", "says_what_is_kept", "start_of_study", "training_of"]

PASSED_ON = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark")
"""Keys of `trainer` that a study trains with, beside the accelerator."""

WITHOUT_EFFECT = {"max_steps": -1, "max_time": None, "limit_train_batches": 1.0}
"""Keys of `trainer` that would end a training elsewhere, with the value that does not."""


def start_of_study(words: Sequence[str], conf: Path) -> Start:
    """What the command line of a study starts from: with `run=<folder>` the config that the run has recorded, and its last checkpoint.

    Raises:
        ConfigError: the folder is not that of a run with a checkpoint.
    """
    resumed = [word.partition("=")[2] for word in words if key_of(word) == "resume" and word.partition("=")[2] not in ("", "null")]
    if resumed:
        raise ConfigError("resume", resumed[-1], "goes on with a training, and this command studies one", "give run=<its folder>")
    named = [word for word in words if key_of(word) == "run" and "=" in word]
    left = [word for word in words if word not in named]
    if not named or named[-1].partition("=")[2] == "null":
        return start_of(left, conf)
    value = named[-1].partition("=")[2].strip("'\"")
    if not value:
        raise ConfigError("run", value, "names no folder", "give the folder of a run, such as outputs/train/...")
    path = Path(value).expanduser()
    if line := study_in(path):
        raise ConfigError("run", path, line, "give the folder of a run")
    try:
        run = run_in(path)
        record = read_record(last_record(run))
    except ConfigError as error:
        raise ConfigError("run", path, error.problem, error.remedy) from error
    if any(key_of(word) == "ckpt_path" for word in left):
        return Start(compose_from(record, conf, left, resume=None), [*left, *record.job_words], record.places)
    plain: Any = OmegaConf.to_container(record.config)
    checkpoint = newest_of(last_checkpoint(run, dict(plain)))
    if checkpoint is None:
        raise ConfigError("run", path, "has no checkpoint to start from", "give a run that has one")
    name = compose_from(record, conf, left, ckpt_path=str(checkpoint), resume=None, output_dir="${hydra:runtime.output_dir}")
    return Start(name, [*left, *record.job_words], record.places)


def check_studied(cfg: DictConfig, program: str) -> Composed:
    """Check a composed config for a study, as far as possible before torch is imported.

    Raises:
        ConfigError: the config is invalid, or has what a study does not do.
    """
    with in_terms_of_the_run():
        check_config(cfg)
        for group in ("batch", "scheduler"):  # before what such a plan needs is asked for
            if build(cfg, group).monitors:
                problem = f"is decided during the training, and {program} needs a plan that is known before"
                raise ConfigError(group, options().get(group, ""), problem, "choose another one, such as batch=small scheduler=cosine")
        run = read_config(cfg)
    if check_devices(cfg) != 1 or cfg.trainer.get("num_nodes", 1) != 1:
        raise ConfigError("trainer.devices", cfg.trainer.devices, f"{program} runs on one device", "use trainer=auto, cpu or gpu")
    for key, without in WITHOUT_EFFECT.items():
        if cfg.trainer.get(key, without) != without:
            raise ConfigError(f"trainer.{key}", cfg.trainer[key], f"would end the training that {program} studies", "leave it out")
    if not run.sets_rate and program != "range_test.py":  # which goes by no schedule
        problem = f"leaves the learning rate to the module, but {program} sets it"
        alone = f", and let configure_optimizers of {run.own_optimizer} return the optimizer alone" if run.own_optimizer else ""
        raise ConfigError("scheduler", "none", problem, f"choose a schedule{alone}")
    if cfg.averaging:
        option = options().get("averaging", "")
        raise ConfigError("averaging", option, f"{program} looks at the weights themselves, not at their average", "use averaging=none")
    return run


def training_of(run: Composed) -> tuple[Training, dict[str, Any]]:
    """The training that a config describes, and key -> plain value of what decides it.

    Raises:
        ConfigError: the data cannot be used, or a class cannot be built.
    """
    cfg = run.cfg
    import_libraries()
    accelerator = accelerator_of(cfg)
    import torch

    from noisescale.app.module import build_module, build_optimizer, check_task, micro_batch_weight
    from noisescale.app.own_data import build_data, set_up, train_size
    from noisescale.app.trainer import choices_of_run, quiet_lightning
    from noisescale.app.weights import load_weights
    from noisescale.execution.batch_norm import min_micro_batch_size
    from noisescale.execution.same_run import PlanOfRun, SameRun
    from noisescale.studies.training import Training

    quiet_lightning()
    data = build_data(cfg)
    check_task(cfg, data)
    size = train_size(cfg, data)
    run.plan(size)
    with errors_under("data"):
        data.prepare_data()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    optimizer, weight = build_optimizer(cfg), micro_batch_weight(cfg)
    set_up(data)
    module = build_module(cfg, data, optimizer)
    load_weights(cfg, module)
    run.plan(size, min_micro_batch_size(module, 1))
    choices = choices_of_run(cfg, data)
    plan = PlanOfRun(plan_choices(cfg), {group: options().get(group, "") for group in PLAN_GROUPS})
    training = Training(
        module,
        data,
        run.strategy,
        run.schedule,
        cfg.epochs,
        cfg.seed,
        {"max_micro_batch_size": cfg.max_micro_batch_size, "micro_batch_multiple": run.ghost_batch_size, "weight": weight},
        {"accelerator": accelerator, **{key: cfg.trainer[key] for key in PASSED_ON if cfg.trainer.get(key) is not None}},
        SameRun(choices, plan),
    )
    identity = {**choices, **plan_choices(cfg), "epochs": cfg.epochs, "max_micro_batch_size": cfg.max_micro_batch_size}
    return training, identity | {"weights_from": cfg.get("weights_from")}


@contextmanager
def in_terms_of_the_run() -> Iterator[None]:
    """With `run=<folder>` an error about its checkpoint, which nobody has typed, is one about the run."""
    try:
        yield
    except ConfigError as error:
        named = [word.partition("=")[2] for word in given() if key_of(word) == "run"]
        if error.key != "ckpt_path" or not named or any(key_of(word) == "ckpt_path" for word in given()):
            raise
        raise ConfigError("run", named[-1], f"its checkpoint {error.problem}", "give another run") from error


@contextmanager
def goes_on_after(program: str, kept: Callable[[Path], str] | None = None) -> Iterator[Path]:
    """The folder of a study, held until the end of the block, in which Lightning says nothing of its own.

    Args:
        program: the name of the command, such as branches.py.
        kept: see `says_what_is_kept`; None: the study goes on where it was.

    Raises:
        ConfigError: another process works in it, or it is the folder of a training or of another study.
        RunInterrupted: a signal has ended the study, see `says_what_is_kept`.
    """
    folder = output_dir()
    refuse_folder_of_another(folder, program.removesuffix(".py"))
    with held(folder, "hydra.run.dir"), in_terms_of_the_run(), says_what_is_kept(program, kept or _all_that_was_done):
        from noisescale.execution.quiet import without_lightnings_lines

        with without_lightnings_lines():
            yield folder


@contextmanager
def says_what_is_kept(program: str, kept: Callable[[Path], str]) -> Iterator[None]:
    """A signal that ends the block prints one line, and the command that goes on, or begins again.

    Args:
        program: the name of the command.
        kept: folder -> what is kept in it, and what the command does.

    Raises:
        RunInterrupted: a signal has ended the block.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        interrupted = stop if isinstance(stop, Interrupted) else None
        folder = output_dir()
        words = [word for word in _words_of_this_run() if key_of(word) != "hydra.run.dir"]
        command = shlex.join(["python", program, *words, f"hydra.run.dir={short_path(folder)}"])
        reason = interrupted.reason if interrupted is not None else "SIGINT"
        print(f"error: interrupted by {reason}; {kept(folder)}:\n{command}", file=sys.stderr)
        raise RunInterrupted(int(interrupted.code or 1) if interrupted is not None else 130, reason) from None


def _words_of_this_run() -> list[str]:
    """What to type for this run alone: in a sweep its own words, behind those that name the run that it starts from."""
    return [*(word for word in given() if key_of(word) in ("run", "ckpt_path")), *typed()] if in_sweep() else given()


def _all_that_was_done(folder: Path) -> str:
    return f"what was done is in {os.path.relpath(folder)}; to go on"
