"""List the options of a config group, for help, for completion and for error messages."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource

__all__ = ["config_folders", "list_options_only", "options_of"]


@cache
def list_options_only() -> None:
    """Make Hydra's help and completion omit files whose name starts with `_`, which hold keys that several options share.

    Hydra has no setting for this. Such a file can still be used in a defaults list, for which Hydra does not need the listing.
    """
    add = ConfigSource._list_add_result

    def add_options_only(self: ConfigSource, files: list[str], file_path: str, file_name: str, results_filter: ObjectType | None) -> None:
        if not file_name.startswith("_"):
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
