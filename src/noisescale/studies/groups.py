"""Runs that differ in their seed alone are one group; a group is named by what distinguishes it from the others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noisescale.studies.runs import Run, choices_of, flat, identity, is_choice, key_of

__all__ = ["Group", "grouped", "seed_of"]

SEED = "seed"


@dataclass(frozen=True)
class Group:
    """Runs of the same config, apart from the seed.

    Attributes:
        label: key -> value of what distinguishes the group from the others; empty if there is only one.
        runs: its runs, in the order in which they were given.
    """

    label: Mapping[str, str]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """`scheduler=cosine batch=dual`."""
        return " ".join(f"{key}={value}" for key, value in self.label.items()) or "all runs"


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The groups, in the order of their first runs.

    Two runs belong together if their composed configs are equal in every key that makes a run what it is (`is_choice`), apart from `seed`
    and from what continues a run. So a default that is typed is no other group than one that is left out. A run whose config cannot be read
    belongs to those that were started with the same words; if its words cannot be read either, it is a group of its own.
    """
    settings = [_Settings.of(run) for run in runs]
    known = {each.words: each.config for each in settings if each.config is not None and each.words is not None}
    members: dict[Any, list[_Settings]] = {}
    for each in settings:
        config = each.config or (None if each.words is None else known.get(each.words))
        key = config or each.words or str(each.run.folder)
        members.setdefault((key, each.added), []).append(each)
    firsts = [next((each for each in group if each.config is not None), group[0]) for group in members.values()]
    labels = _labels(firsts, settings)
    return [Group(label, tuple(each.run for each in group)) for label, group in zip(labels, members.values(), strict=True)]


def seed_of(run: Run) -> int | None:
    """The seed of a run; None if that is not known."""
    words = {key_of(word): word.partition("=")[2] for word in run.overrides or ()}
    for found in (run.results.get(SEED), (run.config or {}).get(SEED), words.get(SEED)):
        if isinstance(found, int) and not isinstance(found, bool):
            return found
        if isinstance(found, str) and found.lstrip("-").isdecimal():
            return int(found)
    return None


@dataclass(frozen=True)
class _Settings:
    run: Run
    values: Mapping[str, str]  # key -> what is shown of it
    config: tuple[tuple[str, str], ...] | None
    words: tuple[str, ...] | None
    added: tuple[str, ...]  # words that the config does not know, such as the note that a run was resumed with others
    typed: tuple[str, ...]  # keys

    @classmethod
    def of(cls, run: Run) -> _Settings:
        composed, typed = run.config, {key_of(word): word.partition("=")[2] for word in run.overrides or () if _counts(key_of(word))}
        leaves = {key: _text(value) for key, value in flat(composed) if _counts(key)} if composed else {}
        options = {key: value for key, value in choices_of(run.folder).items() if _counts(key) and not key.startswith("hydra/")}
        added = [f"{key}={value}" for key, value in typed.items() if composed and not _is_in(key, composed, options)]
        return cls(
            run=run,
            values=typed | leaves | options,
            config=tuple(sorted(leaves.items())) if composed else None,
            words=None if run.overrides is None else tuple(word for word in identity(run.overrides) if _counts(key_of(word))),
            added=tuple(sorted(added)),
            typed=tuple(typed),
        )


def _counts(key: str) -> bool:
    return is_choice(key) and key not in (SEED, "resume", "ckpt_path")


def _is_in(key: str, config: Mapping[str, Any], options: Mapping[str, str]) -> bool:
    found: Any = config
    for part in key.split("@")[0].replace("/", ".").split("."):
        if not isinstance(found, Mapping) or part not in found:
            return key in options
        found = found[part]
    return True


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _labels(firsts: Sequence[_Settings], everyone: Iterable[_Settings]) -> list[dict[str, str]]:
    """What distinguishes the groups: every key that was typed for one of them and differs, then as few others as tell all of them apart."""
    typed = list(dict.fromkeys(key for each in everyone for key in each.typed))
    keys = [key for key in typed if _differs(key, firsts)]
    others = [key for key in dict.fromkeys(key for each in firsts for key in each.values) if key not in typed]
    for key in sorted(others, key=lambda key: "." in key):  # the options of groups first
        parts = {tuple(each.values.get(shown, "") for shown in keys) for each in firsts}
        if len(parts) == len(firsts):
            break
        if len({tuple(each.values.get(shown, "") for shown in (*keys, key)) for each in firsts}) > len(parts):
            keys.append(key)
    labels = [{key: each.values[key] for key in keys if key in each.values} for each in firsts]
    if len({tuple(label.items()) for label in labels}) == len(labels):
        return labels
    return [{**label, "run": os.path.relpath(each.run.folder)} for label, each in zip(labels, firsts, strict=True)]


def _differs(key: str, firsts: Sequence[_Settings]) -> bool:
    return len({each.values.get(key) for each in firsts}) > 1
