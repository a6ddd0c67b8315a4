"""Read the files of conf/ for the page of options: what their comments and their keys say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

__all__ = ["CONF", "Option", "group_of", "lineage", "read"]

CONF = Path(__file__).resolve().parent.parent / "conf"


@dataclass
class Option:
    """A file of conf/: what its comments and its keys say, and those of the files that it is built on."""

    name: str
    about: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    defaults: list[Any] = field(default_factory=list)
    package: str = ""
    """Where its keys are, if not in its group itself."""

    @property
    def shared(self) -> bool:
        """Whether it is no option, but what several have in common."""
        return self.name.rpartition("/")[2].startswith("_")

    @property
    def parents(self) -> list[str]:
        """Files of the same group that it is built on."""
        return [entry for entry in self.defaults if isinstance(entry, str) and entry != "_self_"]


def read(path: Path, name: str) -> Option:
    """Parse one file."""
    loaded: Any = OmegaConf.to_container(OmegaConf.load(path))
    package = re.match(r"# @package (\S+)\n", path.read_text())
    option = Option(name, defaults=loaded.pop("defaults", []), keys=loaded, package=package[1] if package else "")
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package ")]
    comment: list[str] = []
    in_header = True
    for line in lines:
        key = re.match(r"(\w+):", line)
        if line.startswith("#"):
            comment.append(line.removeprefix("#").removeprefix(" "))
        elif in_header:
            last = next((i for i, text in enumerate(comment, 1) if "not an option itself" in text), len(comment))
            if not key or key[1] not in loaded or key[1].startswith("_"):
                last = len(comment)  # else the rest is the comment of the first key, which follows at once
            option.about, comment, in_header = comment[:last], comment[last:], False
        if key and key[1] in loaded:
            option.comments[key[1]] = " ".join(comment)
        if not line.startswith("#"):
            comment = []
    if in_header:
        option.about = comment
    _move_keys_out_of_the_header(option)
    return option


def _move_keys_out_of_the_header(option: Option) -> None:
    """`lr: parameter units. momentum: in [0, 1)` in the header is the comment of these keys, and so is `weight_decay p is added to g`.

    A line that follows the end of a sentence and does not start with a key belongs to the option again.
    """
    names = "|".join(key for key in option.keys if not key.startswith("_"))
    if not names:
        return
    start = re.compile(rf"(?:(?<=\. )|^)((?:{names})(?:, (?:{names}))*)(?:: | p is (?=added))")
    about: list[str] = []
    owners: list[str] = []  # whose comment the sentence is; none: the option's
    for line in option.about:
        parts = start.split(line)  # text, keys, text, keys, text
        if parts[0]:
            if owners and option.comments[owners[0]].endswith("."):
                owners = []
            _append(option, about, owners, parts[0])
        for found, text in zip(parts[1::2], parts[2::2], strict=True):
            owners = found.split(", ")
            _append(option, about, owners, text)
    option.about = about


def _append(option: Option, about: list[str], owners: list[str], text: str) -> None:
    if not owners:
        about.append(text.rstrip())
    for key in owners:
        option.comments[key] = f"{option.comments.get(key, '')} {text}".strip()


def group_of(name: str) -> dict[str, Option]:
    """The files of a group, those of its folders too, in order: what is shared first."""
    files = sorted((CONF / name).rglob("*.yaml"), key=lambda file: (file.parent, file.stem))
    named = ((file, file.relative_to(CONF / name).with_suffix("").as_posix()) for file in files)
    options = {option: read(file, option) for file, option in named}
    if name != "experiment":
        shared = sorted((option for option in options.values() if option.shared), key=lambda option: len(lineage(option, options)))
        options = {option.name: option for option in [*shared, *(option for option in options.values() if not option.shared)]}
    return options


def lineage(option: Option, group: dict[str, Option]) -> list[Option]:
    """What it is built on, the nearest first."""
    found: list[Option] = []
    for name in option.parents:
        found += [group[name], *lineage(group[name], group)]
    return found
