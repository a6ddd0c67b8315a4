"""List the options of a config group, for help, for completion and for error messages."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf

__all__ = ["CLAIMS", "config_folders", "list_options_only", "options_of", "options_with"]

CLAIMS = "claim"
"""The folder of conf/ with the claims of reproduce.py, which is no group of train.py and plan.py."""


@cache
def list_options_only() -> None:
    """Make Hydra's help and completion omit files whose name starts with `_`, which hold keys that several options share, and the claims.

    Hydra has no setting for this. Such a file can still be used in a defaults list, for which Hydra does not need the listing.
    """
    add = ConfigSource._list_add_result

    def add_options_only(self: ConfigSource, files: list[str], file_path: str, file_name: str, results_filter: ObjectType | None) -> None:
        if not file_name.startswith("_") and file_path.strip("/") != CLAIMS:
            add(self, files, file_path, file_name, results_filter)

    ConfigSource._list_add_result = add_options_only  # type: ignore[method-assign]


def config_folders(conf: Path) -> list[Path]:
    """`conf`, and the folder given with `--config-dir`, if there is one."""
    try:
        given = get_args_parser().parse_known_args(sys.argv[1:])[0].config_dir
    except SystemExit:  # argparse refuses the command line; Hydra reports that itself
        given = None
    return [conf, *([Path(given)] if given else [])]


def options_of(group: str, conf: Path) -> list[str]:
    """The options of a group, including those in the user's own folder; empty if there is no such group."""
    return sorted(
        {
            file.relative_to(folder / group).with_suffix("").as_posix()
            for folder in config_folders(conf)
            for file in (folder / group).rglob("[!_]*.yaml")
        }
    )


def options_with(group: str, key: str, conf: Path) -> list[str]:
    """The options of a group that have a key, in sorted order. A key of `logger`, where several can be chosen, is the name of an option."""
    options = options_of(group, conf)
    if group == "logger":
        return [option for option in options if option == key]
    return [option for option in options if any(key in _keys(folder / group / f"{option}.yaml") for folder in config_folders(conf))]


def _keys(file: Path) -> set[str]:
    """The keys of an option, with those of the files of its own folder that its defaults list names."""
    found = OmegaConf.load(file) if file.is_file() else None
    if not isinstance(found, DictConfig):
        return set()
    shared = [str(name) for name in found.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    return {str(key) for key in found}.union(*(_keys(file.parent / f"{name}.yaml") for name in shared))
