"""Which runs of a sweep are still to be carried out: the runs in its folder are known by their overrides, whatever their numbers.

A run that is complete is kept, also if it diverged or was stopped by its own limit. One that was interrupted, killed or failed goes on from
its last checkpoint, or starts again in its folder if it has none. All others get folders of their own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import filter_overrides
from omegaconf import DictConfig, OmegaConf

from noisescale.app.commit import commit
from noisescale.studies.runs import COMPLETE, Run, changed_keys, identity, key_of, runs_in

__all__ = ["Decision", "KnownRuns", "continuing", "quoted"]

_NUMBERED = "${hydra.job.num}"
"""The name of a run's folder that Hydra makes from its number in the sweep; those that are known may have other numbers."""

_SOME = 5
"""How many keys or runs a line names."""


@dataclass(frozen=True)
class Decision:
    """What becomes of one run of a sweep.

    Attributes:
        words: the overrides to start it with; None: it is not started.
        what: kept | running | continued | restarted | new.
        folder: that of the run; None if only its own words name it.
        run: the run that was found; None for one that is known by nothing.
        changed: the keys of its config that are not what they were, because the defaults in conf/ have changed.
    """

    words: list[str] | None
    what: str
    folder: Path | None
    run: Run | None = None
    changed: tuple[str, ...] = ()


def continuing(checkpoint: Path) -> list[str]:
    """The overrides that let a run go on from its checkpoint, if it is carried out in its own folder."""
    return [f"ckpt_path={quoted(checkpoint.resolve())}"]


class KnownRuns:
    """The runs in the folder of a sweep, each of which is claimed at most once.

    Args:
        config: the config of the sweep, with the node `hydra`.
        loader: composes the config of a single run.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader) -> None:
        self._config, self._loader = config, loader
        self._folder = Path(str(config.hydra.sweep.dir))
        below = [path for path in self._folder.iterdir() if path.is_dir()] if self._folder.is_dir() else []
        self._unclaimed = [*runs_in(*below)]
        numbers = [int(path.name) for path in below if path.name.isdecimal()]
        self._next_number = max(numbers, default=-1) + 1
        self._configs: dict[tuple[str, ...], dict[str, Any]] = {}

    def decide(self, jobs: Sequence[Sequence[str]]) -> list[Decision]:
        """What becomes of each run, and a few lines on stderr if the folder holds any of them.

        Raises:
            HydraException: the config of a run cannot be composed.
        """
        claimed: dict[int, Run] = {}
        for same in (_same_words, _same_identity):  # first all runs that were started with the very same words
            for number, words in enumerate(jobs):
                if number not in claimed and (run := self._best(filter_overrides(words), same)):
                    self._unclaimed.remove(run)
                    claimed[number] = run
        decisions = [self._decide(list(words), claimed.get(number)) for number, words in enumerate(jobs)]
        for line in _lines(decisions, self._folder):
            print(f"note: {line}", file=sys.stderr)
        return decisions

    def _best(self, words: Sequence[str], same: Any) -> Run | None:
        """The run of these words that is nearest to its end."""
        found = [run for run in self._unclaimed if run.overrides is not None and same(words, run.overrides)]
        return min(found, key=lambda run: (run.state not in COMPLETE, run.state != "running", run.checkpoint is None), default=None)

    def _decide(self, words: list[str], run: Run | None) -> Decision:
        numbers, composed = self._composed(words)
        if run is None:
            return self._in_new_folder(words)
        changed = tuple(key for key in changed_keys(run.config or {}, composed) if key not in numbers)
        if run.state in COMPLETE or run.state == "running":
            return Decision(None, "kept" if run.state in COMPLETE else "running", run.folder, run, changed)
        if changed and run.checkpoint is not None:
            return self._in_new_folder(words, run, changed)
        words = [*words, f"hydra.sweep.subdir={quoted(run.folder.relative_to(self._folder))}"]
        if run.checkpoint is None:
            return Decision(words, "restarted", run.folder, run)
        return Decision([*words, *continuing(run.checkpoint)], "continued", run.folder, run)

    def _composed(self, words: list[str]) -> tuple[set[str], dict[str, Any]]:
        """(keys that are set to a number, the config of a run): runs that differ in such numbers alone share one, which saves seconds.

        Nothing is lost by that: interpolations are not resolved, so such a number changes its own key only.
        """
        numbers = {key_of(word) for word in words if _is_number(word.partition("=")[2])}
        kind = tuple(key_of(word) if key_of(word) in numbers else word for word in words)
        if kind not in self._configs:
            composed = self._loader.load_sweep_config(self._config, words)
            plain = OmegaConf.to_yaml(OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
            self._configs[kind] = yaml.safe_load(plain)
        return numbers, self._configs[kind]

    def _in_new_folder(self, words: list[str], left: Run | None = None, changed: tuple[str, ...] = ()) -> Decision:
        """A run in a folder of its own; `left` is an unfinished one that it cannot continue."""
        named: Any = OmegaConf.to_container(self._config.hydra.sweep, resolve=False)
        if named["subdir"] != _NUMBERED:
            return Decision(words, "new", None, left, changed)
        number, self._next_number = self._next_number, self._next_number + 1
        return Decision([*words, f"hydra.sweep.subdir={number}"], "new", self._folder / str(number), left, changed)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _same_words(words: Sequence[str], of_run: Sequence[str]) -> bool:
    return list(words) == list(of_run)


def _same_identity(words: Sequence[str], of_run: Sequence[str]) -> bool:
    return identity(words) == identity(of_run)


def _lines(decisions: Sequence[Decision], folder: Path) -> list[str]:
    """What is kept and what goes on, and what was made by another code or with other defaults; nothing for a sweep of new runs."""
    known = [each for each in decisions if each.run is not None]
    if not known:
        return []
    counts = Counter(each.what for each in decisions)
    states = Counter(each.run.state for each in decisions if each.what == "kept" and each.run is not None)
    phrases = {
        "kept": f"kept, because they are complete ({', '.join(f'{count} {state}' for state, count in states.items())})",
        "running": "carried out by another process",
        "continued": "continued from their last checkpoints",
        "restarted": "started again, because they have no checkpoint",
        "new": "new",
    }
    lines = [
        f"of {len(decisions)} runs in {folder}: {', '.join(f'{counts[what]} {said}' for what, said in phrases.items() if counts[what])}"
    ]
    for each in known:
        if each.what == "new" and each.run is not None:
            begun = f"run {each.run.folder.name} was begun with another value of {_some(each.changed)} in conf/, and is not continued"
            lines.append(f"{begun}: it starts anew in another folder")
    other = [each for each in known if each.what in ("kept", "continued")]
    if changed := [each for each in other if each.changed]:
        keys = sorted({key for each in changed for key in each.changed})
        lines.append(f"kept, but made with another value of {_some(keys)} in conf/: {_some(_names(changed))}; {_REMEDY}")
    here = commit()
    if strangers := [each for each in other if each.run is not None and each.run.commit not in (None, here)]:
        commits = sorted({str(each.run.commit)[:7] for each in strangers if each.run is not None})
        lines.append(f"begun by another commit, {_some(commits)} and not {str(here)[:7]}: {_some(_names(strangers))}; {_REMEDY}")
    return lines


_REMEDY = "another hydra.sweep.dir trains them again"


def _names(decisions: Iterable[Decision]) -> list[str]:
    return [f"run {each.run.folder.name}" for each in decisions if each.run is not None]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SOME]) + (f" and {len(names) - _SOME} more" if len(names) > _SOME else "")


def quoted(path: Path) -> str:
    """A path as the value of an override."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"
