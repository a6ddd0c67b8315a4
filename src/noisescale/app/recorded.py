"""The recorded configuration of a run: written into its folder, read again, and composed anew as it was, whatever conf/ has become since.

`.hydra/` has the composed config (config.yaml), Hydra's own part with the option of each group (hydra.yaml), and the words of the command
line (overrides.yaml). Each time the run is resumed, `.hydra/resumed-1/`, `.hydra/resumed-2/`, ... get the same three files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from noisescale.app.listing import options_of
from noisescale.errors import ConfigError
from noisescale.files import write_atomically

__all__ = ["CONFIG", "Record", "compose_from", "last_record", "next_record", "paths_left_behind", "read_record", "repeated", "write_record"]

CONFIG = ".hydra"
"""The folder of the configuration, in the folder of a run."""

_NAME = "noisescale_recorded"
"""The name under which Hydra finds the recorded config; not one of conf/."""

_FILES = ("config.yaml", "hydra.yaml", "overrides.yaml")


@dataclass(frozen=True)
class Record:
    """What a run has recorded of its configuration.

    Args:
        folder: the folder of the three files.
        config: the composed config, with its interpolations.
        choices: the option of each group; None for a group that has none, such as `experiment`.
        words: the words of the command line, with those of the runs that were resumed.
        program: the name of the program: train or plan.
        job_words: the words about Hydra's `hydra.job`, such as environment variables.
        places: the working directory of the run, and the folders that --config-dir or hydra.searchpath named.
    """

    folder: Path
    config: DictConfig
    choices: Mapping[str, str | None]
    words: tuple[str, ...]
    program: str
    job_words: tuple[str, ...]
    places: tuple[Path, ...]


def write_record(folder: Path, cfg: DictConfig, words: Sequence[str] | None = None) -> None:
    """Record the config of the run that is carried out in this process; `words` are those of the command line, unless given."""
    hydra: Any = HydraConfig.instance().cfg
    typed = list(hydra.hydra.overrides.task) if words is None else list(words)
    for name, content in zip(_FILES, (cfg, hydra, OmegaConf.create(typed)), strict=True):  # in this order: see `_is_whole`
        write_atomically(folder / name, OmegaConf.to_yaml(content))


def read_record(folder: Path) -> Record:
    """The record in a folder.

    Raises:
        ConfigError: the files are damaged.
    """
    try:
        config, hydra = (OmegaConf.load(folder / name) for name in _FILES[:2])
        own = hydra.hydra
        sources = [Path(each.path) for each in own.runtime.config_sources if each.schema == "file" and each.provider != "main"]
        return Record(
            folder,
            config if isinstance(config, DictConfig) else OmegaConf.create({}),
            {str(group): option for group, option in own.runtime.choices.items() if not str(group).startswith("hydra/")},
            tuple(_as_written(own.overrides.task)),
            str(own.job.name),
            tuple(word for word in _as_written(own.overrides.hydra) if word.lstrip("+~").startswith("hydra.job.")),
            (Path(str(own.runtime.cwd)), *sources),
        )
    except Exception as error:  # whatever the files hold: of YAML, of OmegaConf, of Python
        reason = " ".join(str(error).split())
        raise ConfigError("config", folder, f"the recorded configuration cannot be read ({reason})", "start the run anew") from error


def _as_written(words: Any) -> list[str]:
    """Words of a command line, which may hold `${...}`."""
    plain: Any = OmegaConf.to_container(words, resolve=False)
    return [str(word) for word in plain]


def last_record(run: Path) -> Path:
    """The folder of the last record of a run: that of its last resume, or its first."""
    resumed = [folder for folder in _resumes(run) if _is_whole(folder)]
    return resumed[-1] if resumed else run / CONFIG


def next_record(run: Path) -> Path:
    """The folder for the record of the next resume."""
    numbers = [_number(folder) for folder in _resumes(run)]
    return run / CONFIG / f"resumed-{max(numbers, default=0) + 1}"


def _resumes(run: Path) -> list[Path]:
    return sorted((folder for folder in (run / CONFIG).glob("resumed-*") if _number(folder)), key=_number)


def _number(folder: Path) -> int:
    found = re.fullmatch(r"resumed-(\d+)", folder.name)
    return int(found.group(1)) if found else 0


def _is_whole(folder: Path) -> bool:
    """Whether all files were written; a kill may have come between."""
    return all((folder / name).is_file() for name in _FILES)


def paths_left_behind(record: Record, here: Path) -> list[tuple[str, str]]:
    """(key, value) of the relative paths in a config that exist where the run was started, and not here."""
    there = record.places[0]
    if there == here or not there.is_dir():
        return []
    texts = [(key, value) for key, value in leaves(OmegaConf.to_container(record.config)) if isinstance(value, str) and value]
    paths = [(key, value) for key, value in texts if not key.endswith("_target_") and "${" not in value and not Path(value).is_absolute()]
    return [(key, value) for key, value in paths if (there / value).exists() and not (here / value).exists()]


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> value, for every value of a config that is not a mapping."""
    if not isinstance(node, Mapping):
        yield key, node
        return
    for name, value in node.items():
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def repeated(words: Sequence[str], conf: Path) -> tuple[Record, list[str]] | None:
    """(record, the other words) of `--config-path <run>/.hydra --config-name config`; None for any other command line."""
    try:
        given = get_args_parser().parse_known_args(list(words))[0]
    except SystemExit:  # Hydra reports that itself
        return None
    if given.config_path is None or (given.config_name or "config").removesuffix(".yaml") != "config":
        return None
    for folder in (Path(given.config_path), conf.parent / given.config_path):
        if all((folder / name).is_file() for name in _FILES[:2]):
            return read_record(folder), _without_flags(words, ("--config-path", "-cp", "--config-name", "-cn"))
    return None


def _without_flags(words: Sequence[str], flags: Collection[str]) -> list[str]:
    """The words without these flags and their values, whether they are one word or two."""
    left: list[str] = []
    rest = iter(words)
    for word in rest:
        name, given, _ = word.partition("=")
        if name in flags:
            if not given:
                next(rest, None)
        else:
            left.append(word)
    return left


def compose_from(record: Record, conf: Path, words: Sequence[str], run: Path | None = None, **values: Any) -> str:
    """Let Hydra start from a recorded config instead of conf/config.yaml; returns the name of that config.

    A group that is a word of the command line (`logger=csv`) comes from conf/, and replaces what was recorded. Of `trainer=...` only the
    device is taken; the other keys stay what they were.

    Args:
        record: the recorded config.
        conf: the folder of config.yaml.
        words: the words of the command line.
        run: the folder that the run is carried out in; None: as in conf/config.yaml.
        values: keys of the config to set, outside its groups.
    """
    node = deepcopy(record.config)
    OmegaConf.set_struct(node, False)
    before: list[Any] = []
    after: list[Any] = []
    for group in dict.fromkeys(word.partition("=")[0].lstrip("+~") for word in words):
        if "." in group or "/" in group or not options_of(group, conf):
            continue
        if group == "trainer" and "trainer" in node:
            before.append({group: record.choices.get(group)})
            for key in ("accelerator", "strategy", "devices"):
                node.trainer.pop(key, None)
        else:
            after.append({group: record.choices.get(group)})
            node.pop(group, None)
    for key, value in values.items():
        node[key] = value
    plain: Any = OmegaConf.to_container(OmegaConf.load(conf / "config.yaml"))
    hydra = plain.get("hydra", {})
    if run is not None:
        hydra["run"] = {"dir": str(run)}
    hydra["runtime"] = {"choices": dict(record.choices)}
    hydra["overrides"] = {"task": list(record.words)}
    newer = [entry for entry in plain.get("defaults", []) if isinstance(entry, dict) and not {*entry} & {*record.choices, *node}]
    after += [entry for entry in newer if not any(" " in str(key) for key in entry)]  # groups that are newer than the run
    own = [entry for entry in plain.get("defaults", []) if isinstance(entry, dict) and any(" " in str(key) for key in entry)]
    content = OmegaConf.to_container(node)
    assert isinstance(content, dict)
    content = {key: value for key, value in plain.items() if key not in ("defaults", "hydra")} | content  # keys that are newer than the run
    ConfigStore.instance().store(_NAME, {"defaults": [*before, "_self_", *after, *own], **content, "hydra": hydra})
    return _NAME
