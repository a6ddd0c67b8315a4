"""`ckpt=<run dir or file>`: look at a checkpoint with the recorded configuration of its own run. Does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from noisescale.app.recorded import CONFIG, Record, compose_from, last_record, paths_left_behind, read_record
from noisescale.app.resume import Start
from noisescale.checkpoint_files import damage_of
from noisescale.errors import ConfigError
from noisescale.studies.runs import last_checkpoint, newest_of

__all__ = ["start_at_checkpoint"]

MAY_CHANGE = ("curvature", "data", "trainer", "threads", "full_error", "hydra")
"""What may be typed beside `ckpt` and `to`; everything else is as the run has recorded it."""

NOT_MEASURED = ("_target_", "path", "every_n_epochs", "at_end")
"""Keys of the callback that say when it measures, and where it writes."""

LINE: dict[str, Any] = {"points": 41, "span": [-0.5, 1.5]}
"""Where the loss is computed along the line to another checkpoint: so many places, from and to, where 0 is the one and 1 the other."""


def start_at_checkpoint(words: Sequence[str], conf: Path) -> Start:
    """What a command that looks at a checkpoint starts from: the recorded config of its run, with the group `curvature`.

    Args:
        words: the command line, flags first.
        conf: the folder of config.yaml.

    Raises:
        ConfigError: there is no such checkpoint; something is typed that a look at a checkpoint cannot change.
    """
    typed = {key: [word for word in words if word.startswith(f"{key}=")] for key in ("ckpt", "to")}
    given = {key: _plain_path(found[-1].partition("=")[2]) for key, found in typed.items() if found}
    left = [word for word in words if not any(word in found for found in typed.values())]
    if not given.get("ckpt"):
        raise ConfigError("ckpt", "null", "says which checkpoint to measure", "give ckpt=outputs/train/<run>, or a .ckpt file in it")
    for flag in ("-m", "--multirun"):
        if flag in left:
            raise ConfigError("ckpt", given["ckpt"], f"is measured in one run, not in a sweep ({flag})", f"leave out {flag}")
    run, checkpoint = _checkpoint("ckpt", given["ckpt"])
    other = None if "to" not in given else _checkpoint("to", given["to"])[1]
    record = read_record(last_record(run))
    _refuse_other_words(left)
    for key, value in paths_left_behind(record, Path.cwd()):
        print(f"note: {key}={value} is in {record.places[0]}, where the run was started, and not in {Path.cwd()}", file=sys.stderr)
    measured: Any = OmegaConf.to_container(OmegaConf.load(conf / "callbacks" / "sharpness.yaml"), resolve=False)
    options = {key: value for key, value in measured["sharpness"].items() if key not in NOT_MEASURED}
    paths = {"ckpt": str(checkpoint), "to": None if other is None else str(other)}
    started_from: dict[str, Any] = {"ckpt_path": None, "resume": None, "weights_from": None, "output_dir": "${hydra:runtime.output_dir}"}
    name = compose_from(record, conf, left, curvature={**options, **LINE, **paths}, **started_from)
    return Start(name, [*left, *record.job_words], record.places)


def _plain_path(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def _refuse_other_words(words: Sequence[str]) -> None:
    for word in words:
        key, _, value = word.partition("=")
        key = key.lstrip("+~")
        flag = word.startswith("-") or ("=" not in word and not word.startswith("~"))  # Hydra's own, or the value of one
        if flag or (key.partition(".")[0].partition("/")[0] in MAY_CHANGE and key != "data"):
            continue
        raise ConfigError(
            key, value, "is as the run of the checkpoint has recorded it", "leave it out; curvature.KEY says what is measured"
        )


def _checkpoint(key: str, given: str) -> tuple[Path, Path]:
    """(the folder of a run, its checkpoint): the last one, or the file that is given.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = Path(given).expanduser()
    if not path.exists():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ConfigError(key, given, f"no such file or folder{where}", f"give {key}=outputs/train/<run>, or a .ckpt file in it")
    runs = [
        folder
        for folder in ((path.parent, path.parent.parent) if path.is_file() else (path,))
        if (folder / CONFIG / "config.yaml").is_file()
    ]
    if not runs:
        problem = "is not in the folder of a run" if path.is_file() else "is not the folder of a run"
        raise ConfigError(key, given, f"{problem}, which has {CONFIG}/config.yaml", "give one that is")
    run = runs[0]
    record = read_record(last_record(run))
    if record.program == "plan":
        raise ConfigError(key, given, "is a folder of plan.py, which trains nothing", "give the folder of a training")
    found = path if path.is_file() else newest_of(last_checkpoint(run, _config(record)))
    if found is None:
        raise ConfigError(key, given, f"has no checkpoint ({os.path.relpath(last_checkpoint(run, _config(record)))})", "give another run")
    if damage := damage_of(found):
        raise ConfigError(key, found, damage, "give a whole checkpoint")
    return run, found


def _config(record: Record) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(record.config)
    return dict(plain)
