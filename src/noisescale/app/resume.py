"""`resume=<run dir>`: go on with a run, in its own folder, with its own recorded configuration, from its last checkpoint."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from noisescale.app.changes import refuse_changes
from noisescale.app.choices import key_of
from noisescale.app.config import output_dir
from noisescale.app.recorded import CONFIG, Record, compose_from, last_record, paths_left_behind, read_record, repeated
from noisescale.app.run_folder import results_in
from noisescale.errors import ConfigError, check_count
from noisescale.studies.headline import headline
from noisescale.studies.runs import last_checkpoint, newest_of

__all__ = ["Start", "already_complete", "repeat_command", "resume_command", "short_path", "start_of"]


@dataclass(frozen=True)
class Start:
    """From which config Hydra starts.

    Args:
        config_name: the name of the primary config.
        words: the words of the command line that are left for Hydra.
        places: folders in which the run found its own modules.
    """

    config_name: str
    words: list[str]
    places: tuple[Path, ...] = field(default=())


def resume_command(run: Path, **changes: object) -> str:
    """The command that goes on with a run, quoted for a shell: `python train.py resume=outputs/train/...`.

    It starts as many processes as this one was started with. In Jupyter it is the call of `noisescale.app.notebook.run`.

    Args:
        run: the folder of the run.
        changes: keys of the config that change, such as max_micro_batch_size=16.
    """
    words: dict[str, object] = {"resume": short_path(run), **changes}
    if "ipykernel" in sys.modules:
        return f"run({', '.join(f'{key}={value!r}' for key, value in words.items())})"
    return shlex.join([*_starter(), _program(), *(f"{key}={value}" for key, value in words.items())])


def repeat_command(run: Path, **changes: object) -> str:
    """The command that carries a run out again from its start, with its recorded configuration, in a folder of its own."""
    recorded = ["--config-path", os.path.relpath(run / CONFIG), "--config-name", "config"]
    return shlex.join([*_starter(), _program(), *recorded, *(f"{key}={value}" for key, value in changes.items())])


def _program() -> str:
    return sys.argv[0] if sys.argv[0].endswith("train.py") else "train.py"


def _starter() -> list[str]:
    """What the user typed before the program."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here, nodes = os.environ.get("LOCAL_WORLD_SIZE", "1"), os.environ.get("GROUP_WORLD_SIZE", "1")
        return ["torchrun", *(["--nnodes", nodes] if nodes != "1" else []), "--nproc-per-node", here]
    return ["srun", "python"] if "SLURM_STEP_NUM_TASKS" in os.environ else ["python"]


def short_path(path: Path) -> str:
    """The shorter of the path and the path from here."""
    relative = os.path.relpath(path)
    return min(relative, str(path), key=len) if not relative.startswith("..") else str(path)


def start_of(words: Sequence[str], conf: Path) -> Start:
    """What the command line starts from: conf/config.yaml, or the recorded config of a run that is resumed or repeated.

    Args:
        words: the command line, flags first.
        conf: the folder of config.yaml.

    Raises:
        ConfigError: there is nothing to resume.
    """
    typed = [word for word in words if key_of(word) == "resume" and "=" in word]
    if typed and (given := _unquoted(typed[-1].partition("=")[2])) not in ("", "null"):
        return _resumed(given, [word for word in words if word not in typed], conf)
    found = repeated(words, conf)
    if found is None:
        return Start("config", [word for word in words if word not in typed])
    record, left = found
    again = {} if _is_rank(left, record) else _from_its_start(record)
    return Start(compose_from(record, conf, left, **again), [*left, *record.job_words], record.places)


def _is_rank(words: Sequence[str], record: Record) -> bool:
    """Whether a process is started as one of those of the run itself, in the same folder, and not to repeat the run."""
    folders = [Path(_unquoted(word.partition("=")[2])) for word in words if key_of(word) == "hydra.run.dir"]
    return any(folder.resolve() in record.folder.resolve().parents for folder in folders)


def _from_its_start(record: Record) -> dict[str, Any]:
    """The keys that let a recorded run begin as it has begun: a resume has recorded from which of its own checkpoints it went on."""
    if not record.folder.name.startswith("resumed-"):
        return {}
    return {"resume": None, "ckpt_path": read_record(record.folder.parent).config.get("ckpt_path")}


def _resumed(given: str, words: list[str], conf: Path) -> Start:
    for flag in ("-m", "--multirun"):
        if flag in words:
            raise ConfigError("resume", given, f"goes on with one run, not with a sweep ({flag})", f"leave out {flag}")
    run = run_in(Path(given).expanduser())
    for word in words:
        if key_of(word) in ("hydra.run.dir", "ckpt_path"):
            _, _, value = word.partition("=")
            raise ConfigError(key_of(word), value, "a resumed run has its own folder and its last checkpoint", "leave it out")
    record = read_record(last_record(run))
    path = last_checkpoint(run, _plain(record))
    checkpoint = newest_of(path)
    if checkpoint is None:
        problem = f"has no checkpoint to resume from ({os.path.relpath(path)})"
        raise ConfigError("resume", given, problem, f"train it anew: {repeat_command(run)}")
    for key, value in paths_left_behind(record, Path.cwd()):
        print(f"note: {key}={value} is in {record.places[0]}, where the run was started, and not in {Path.cwd()}", file=sys.stderr)
    name = compose_from(record, conf, words, run, ckpt_path=str(checkpoint), resume=str(run), output_dir="${hydra:runtime.output_dir}")
    return Start(name, [*words, *record.job_words], record.places)


def _unquoted(value: str) -> str:
    """A value without quotes around it: the path is not parsed by Hydra, so that it may have any character, quoted or not."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace(f"\\{value[0]}", value[0])
    return value


# -- which run ----------------------------------------------------------------------------------------------------------------


def run_in(path: Path) -> Path:
    """The folder of the run that a path names: that folder, its last checkpoint, or a folder of runs, for the newest with a checkpoint.

    Raises:
        ConfigError: there is no run.
    """
    if not path.exists():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ConfigError("resume", path, f"no such folder{where}", "give the folder of a run, such as outputs/train/...")
    if path.is_file():
        return _run_of_file(path)
    if (path / CONFIG / "config.yaml").is_file():
        return _checked(path)
    runs = sorted((config.parents[1] for config in path.glob(f"*/{CONFIG}/config.yaml")), key=_started, reverse=True)
    if (path / "multirun.yaml").is_file():
        raise ConfigError("resume", path, "is the folder of a sweep", f"resume one of its runs: {_offered(runs)}")
    for run in runs:
        if _is_training(run) and newest_of(last_checkpoint(run, _plain(read_record(last_record(run))))) is not None:
            print(f"resume: {os.path.relpath(run)}")
            return run
    if runs:
        raise ConfigError("resume", path, f"none of the {len(runs)} runs in it is a training that has a checkpoint")
    raise ConfigError("resume", path, f"is not the folder of a run: it has no {CONFIG}/config.yaml", "give one that has")


def _run_of_file(path: Path) -> Path:
    if path.suffix == ".ckpt":
        for run in (path.parent, path.parent.parent):
            if (run / CONFIG / "config.yaml").is_file():
                if path.resolve() == last_checkpoint(run, _plain(read_record(last_record(run)))).resolve():
                    return _checked(run)
                problem = "is not the last checkpoint of its run"
                raise ConfigError("resume", path, problem, f"give the run, {os.path.relpath(run)}, or use ckpt_path in a new folder")
        raise ConfigError("resume", path, "is a checkpoint outside of the folder of a run", "use ckpt_path, with the options of its run")
    raise ConfigError("resume", path, "is a file", "give the folder of a run, or its last checkpoint")


def _checked(run: Path) -> Path:
    if not _is_training(run):
        raise ConfigError("resume", run, "is a folder of plan.py, which trains nothing", "give the folder of a training")
    return run


def _is_training(run: Path) -> bool:
    return read_record(run / CONFIG).program != "plan"


def _started(run: Path) -> tuple[float, str]:
    return (run / CONFIG / "config.yaml").stat().st_mtime, run.name


def _offered(runs: Sequence[Path], most: int = 5) -> str:
    """Those of a sweep that are not complete, in order; all, if all are."""
    ordered = sorted(runs, key=lambda run: (len(run.name), run.name))
    open_ones = [run for run in ordered if results_in(run).get("status") != "completed"] or ordered
    more = f", and {len(open_ones) - most} more" if len(open_ones) > most else ""
    return ", ".join(os.path.relpath(run) for run in open_ones[:most]) + more


def _plain(record: Record) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(record.config)
    return dict(plain)


# -- what is left of it -------------------------------------------------------------------------------------------------------


def already_complete(cfg: DictConfig) -> str:
    """A line that says that the run to be resumed is complete, and leaves nothing to do; empty if there is something left, or no resume.

    Raises:
        ConfigError: what was typed would make it another run; the run has diverged.
    """
    if not resumes(cfg):
        return ""
    check_count("epochs", cfg.epochs, unit="epochs")
    run = output_dir()
    record = read_record(last_record(run))
    refuse_changes(cfg, record)
    results = results_in(run)
    status, reason = results.get("status"), results.get("reason")
    if status == "diverged":
        raise ConfigError("resume", run, f"has diverged, and would again ({reason})", "start anew, with a lower optimizer.lr")
    early = str(reason).startswith("early stopping")
    goes_on = (early and _early_stopping(cfg) != _early_stopping(record.config)) or (not early and cfg.epochs > record.config.epochs)
    if status != "completed" or goes_on:
        return ""
    metric = headline(results)
    tested = f", {metric[0]} {metric[1]:.4f}" if metric is not None else ""
    how = "; more epochs would go on" if not early else "; more early_stopping.patience would go on"
    return f"{os.path.relpath(run)} is complete: {results.get('updates')} updates{tested}, {reason}{how}"


def resumes(cfg: DictConfig) -> bool:
    """Whether the run is one that `resume=` goes on with."""
    return cfg.get("resume") is not None and Path(str(cfg.resume)).resolve() == output_dir().resolve()


def _early_stopping(cfg: DictConfig) -> Any:
    return [OmegaConf.to_container(cfg.get(group) or OmegaConf.create({}), resolve=False) for group in ("early_stopping", "callbacks")]
