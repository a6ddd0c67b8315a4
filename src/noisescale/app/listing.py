"""Which words a config group knows: for help, completion and refusals alike."""

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
    """Let Hydra's help and completion leave out files whose name starts with `_`: keys that several options share.

    Hydra has no setting for this. They can still be named in a defaults list, which does not go through the listing.
    """
    add = ConfigSource._list_add_result

    def add_options_only(self: ConfigSource, files: list[str], file_path: str, file_name: str, results_filter: ObjectType | None) -> None:
        if not file_name.startswith("_"):
            add(self, files, file_path, file_name, results_filter)

    ConfigSource._list_add_result = add_options_only  # type: ignore[method-assign]


def config_folders(conf: Path) -> list[Path]:
    """`conf`, and the folder that the user gives with `--config-dir`."""
    try:
        given = get_args_parser().parse_known_args(sys.argv[1:])[0].config_dir
    except SystemExit:  # words that argparse refuses; Hydra says so itself
        given = None
    return [conf, *([Path(given)] if given else [])]


def options_of(group: str, conf: Path) -> list[str]:
    """The words that a group knows, those of the user's own folder included; empty where there is no such group."""
    return sorted(
        {
            file.relative_to(folder / group).with_suffix("").as_posix()
            for folder in config_folders(conf)
            for file in (folder / group).rglob("[!_]*.yaml")
        }
    )
