"""A claim as data: its sentence and source, the arms that are compared, what is measured, and the rule for its verdict."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from itertools import product
from typing import Any

from noisescale.errors import ConfigError, check_choice, check_count
from noisescale.studies.claims.checks import EFFECTS, Check
from noisescale.studies.claims.metrics import SOURCES, Metric
from noisescale.studies.claims.toys import FUNCTIONS

__all__ = ["FIRST_TUNING_SEED", "Arm", "Claim", "read_claim"]

FIRST_TUNING_SEED = 1000
"""The seeds of tuning runs begin here. Those of the verdict are others, so that no arm is judged by the runs that chose its settings."""


@dataclass(frozen=True)
class Arm:
    """What is done in one arm, once per seed.

    Attributes:
        words: overrides of train.py.
        grid: key -> values, each combination of which is tried with the tuning seeds; the best one is added to `words`.
        function: instead of runs, the name of one of `toys.FUNCTIONS`.
        arguments: its arguments besides `seed`.
    """

    words: tuple[str, ...] = ()
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    function: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def candidates(self) -> list[tuple[str, ...]]:
        """The words of each combination of the grid; one empty combination without a grid."""
        return [tuple(f"{key}={value}" for key, value in zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


@dataclass(frozen=True)
class Claim:
    """A claim at one scale.

    Attributes:
        name: how it is called on the command line.
        sentence: what it claims.
        source: who claims it, and where.
        scale: smoke | cpu | gpu.
        runtime: how long it takes, and on what.
        seeds: the number of seeds of the verdict, which are first_seed, first_seed + 1, ...
        tuning_seeds: the number of seeds of each candidate of a grid, which are 1000, 1001, ...
        tuning: (metric, min | max) by which the best candidate is chosen; None if no arm has a grid.
        words: overrides that all arms share.
        arms, metrics, checks: by name.
        curves: the columns of epochs.csv that its figure shows.
        notes: what a reader must know to judge the verdict.
        first_seed: another one repeats the verdict with fresh seeds.
    """

    name: str
    sentence: str
    source: str
    scale: str
    runtime: str
    seeds: int
    arms: Mapping[str, Arm]
    metrics: Mapping[str, Metric]
    checks: Mapping[str, Check]
    words: tuple[str, ...] = ()
    tuning_seeds: int = 2
    tuning: tuple[str, str] | None = None
    curves: tuple[str, ...] = ()
    notes: str = ""
    first_seed: int = 0

    def __post_init__(self) -> None:
        check_count("seeds", self.seeds, unit="seeds")
        check_count("tuning_seeds", self.tuning_seeds, unit="seeds")
        check_count("first_seed", self.first_seed, at_least=0, at_most=2**32 - self.seeds)
        tuned = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + self.tuning_seeds)
        if any(arm.grid for arm in self.arms.values()) and {*tuned} & {*self.verdict_seeds}:
            problem = f"the verdict of {self.name} would use seeds that tune its arms, from {tuned[0]} on"
            raise ConfigError("first_seed", self.first_seed, problem, f"for example first_seed={tuned[-1] + 1}")
        for name, check in self.checks.items():
            check_choice(f"checks.{name}: metric", check.metric, self.metrics)
            for arm in check.arms:
                check_choice(f"checks.{name}: arm", arm, self.arms)
        for check in self.checks.values():
            seen = any(each.control and each.inside is None and each.metric == check.metric for each in self.checks.values())
            if check.is_equality and not check.control and not seen:
                problem = (
                    f"says that arms have equal {check.metric}, but no check with control: true says that another arm must differ in it"
                )
                raise ConfigError(f"checks.{check.name}", "inside", problem)
        if all(check.control for check in self.checks.values()):
            raise ConfigError("checks", list(self.checks), "must have at least one that is not a control")
        if any(arm.grid for arm in self.arms.values()) and self.tuning is None:
            raise ConfigError("tuning", None, "is needed where an arm has a grid", "for example tuning: {metric: val_loss, best: min}")
        if self.tuning is not None:
            check_choice("tuning.metric", self.tuning[0], self.metrics)
            check_choice("tuning.best", self.tuning[1], ("min", "max"))

    @property
    def verdict_seeds(self) -> range:
        """The seeds of the verdict."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def seeds_in_words(self) -> str:
        """`5 seeds`, or `5 seeds from 100`."""
        return f"{self.seeds} seeds" + (f" from {self.first_seed}" if self.first_seed else "")

    @property
    def fingerprint(self) -> str:
        """A checksum of all that decides its runs and its verdict: another one means that a verdict is of another claim.

        What a claim leaves at its default does not count, so that a new kind of field changes no checksum.
        """
        decides = _plain(replace(self, first_seed=0, runtime="", notes="", curves=()))
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, without the fields that have their default."""
    if is_dataclass(value) and not isinstance(value, type):
        given = {each.name: getattr(value, each.name) for each in fields(value)}
        blank = {each.name: each.default if each.default_factory is MISSING else each.default_factory() for each in fields(value)}
        return {name: _plain(found) for name, found in given.items() if found != blank[name]}
    if isinstance(value, Mapping):
        return {str(key): _plain(found) for key, found in value.items()}
    return [_plain(found) for found in value] if isinstance(value, (list, tuple)) else value


def read_claim(name: str, scale: str, description: Mapping[str, Any]) -> Claim:
    """The claim that a description with the keys of conf/claim/*.yaml describes.

    Args:
        name: how it is called.
        scale: the scale that it describes.
        description: plain containers.

    Raises:
        ConfigError: a key is missing, unknown or out of its range; the error names it.
    """
    known = {each.name for each in fields(Claim)} - {"name", "scale"}
    _refuse_unknown("", description, known)
    for key in ("sentence", "source", "runtime", "seeds", "arms", "metrics", "checks"):
        if description.get(key) in (None, "", [], {}):
            raise ConfigError(key, description.get(key), "is needed")
    tuning = description.get("tuning")
    if tuning is not None:
        _refuse_unknown("tuning.", tuning, {"metric", "best"})
    try:
        return Claim(
            name=name,
            scale=scale,
            sentence=" ".join(str(description["sentence"]).split()),
            source=" ".join(str(description["source"]).split()),
            runtime=str(description["runtime"]),
            seeds=description["seeds"],
            arms={str(key): _arm(f"arms.{key}", value) for key, value in description["arms"].items()},
            metrics={str(key): _metric(f"metrics.{key}", value) for key, value in description["metrics"].items()},
            checks={str(key): _check(str(key), value) for key, value in description["checks"].items()},
            words=_words("words", description.get("words", ())),
            tuning_seeds=description.get("tuning_seeds", 2),
            tuning=None if tuning is None else (str(tuning.get("metric")), str(tuning.get("best"))),
            curves=tuple(description.get("curves", ())),
            notes=" ".join(str(description.get("notes", "")).split()),
            first_seed=description.get("first_seed", 0),
        )
    except AttributeError as error:
        raise ConfigError("arms, metrics, checks", "...", "must be mappings from names to descriptions") from error


def _arm(key: str, found: Any) -> Arm:
    if isinstance(found, (list, tuple)):
        return Arm(_words(key, found))
    _refuse_unknown(f"{key}.", found, {"words", "grid", "function", "arguments"})
    function, grid = found.get("function"), found.get("grid", {})
    if function is not None:
        check_choice(f"{key}.function", function, FUNCTIONS)
        try:
            inspect.signature(FUNCTIONS[function]).bind(seed=0, **found.get("arguments", {}))
        except TypeError as error:
            raise ConfigError(f"{key}.arguments", dict(found.get("arguments", {})), f"do not fit {function}: {error}") from error
        if found.get("words") or grid:
            raise ConfigError(f"{key}.function", function, "has no runs, so that words and a grid change nothing", "leave them out")
    for name, values in grid.items():
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            raise ConfigError(f"{key}.grid.{name}", values, "must be a list of at least two values")
    return Arm(_words(f"{key}.words", found.get("words", ())), grid, function, found.get("arguments", {}))


def _metric(key: str, found: Any) -> Metric:
    _refuse_unknown(f"{key}.", found, {*SOURCES, "take", "reach", "at_most", "if_diverged"})
    sources = [source for source in SOURCES if source in found]
    if len(sources) != 1:
        raise ConfigError(key, dict(found), f"must have exactly one of {', '.join(SOURCES)}")
    rest = {name: value for name, value in found.items() if name not in SOURCES}
    try:
        return Metric(sources[0], str(found[sources[0]]), **rest)
    except ConfigError as error:
        raise error.under(key) from error


def _check(name: str, found: Any) -> Check:
    key = f"checks.{name}"
    _refuse_unknown(f"{key}.", found, {*EFFECTS, "of", "inside", "outside", "above", "below", "control", "says"})
    effects = [effect for effect in EFFECTS if effect in found]
    if len(effects) != 1:
        raise ConfigError(key, dict(found), f"must have exactly one of {', '.join(EFFECTS)}")
    effect, compared = effects[0], found[effects[0]]
    curve = compared if isinstance(compared, Mapping) else {}
    if effect == "optimum_slope":
        arms = [str(arm) for points in curve.values() for arm in points]
    else:
        arms = [str(arm) for arm in curve] or ([compared] if isinstance(compared, str) else [str(arm) for arm in compared])
    for name_of_region in ("inside", "outside"):
        if not isinstance(found.get(name_of_region, []), (list, tuple, type(None))):
            raise ConfigError(f"{key}.{name_of_region}", found[name_of_region], "must be [low, high]")
    if not isinstance(found.get("control", False), bool):
        raise ConfigError(f"{key}.control", found["control"], "must be true or false")
    regions: dict[str, Any] = {name: tuple(found[name]) for name in ("inside", "outside") if found.get(name) is not None}
    bounds = {name: found[name] for name in ("above", "below") if found.get(name) is not None}
    try:
        return Check(
            name,
            effect,
            tuple(arms),
            str(found.get("of")),
            **regions,
            **bounds,
            control=found.get("control", False) is True,
            says=" ".join(str(found.get("says", "")).split()),
            curve=curve,
        )
    except ConfigError as error:
        raise error.under(key) from error


def _words(key: str, found: Any) -> tuple[str, ...]:
    if isinstance(found, str) or not all(isinstance(word, str) and "=" in word for word in found):
        raise ConfigError(key, found, "must be a list of overrides, such as [scheduler=step, optimizer.lr=0.1]")
    return tuple(found)


def _refuse_unknown(under: str, found: Any, known: set[str]) -> None:
    if not isinstance(found, Mapping):
        raise ConfigError(under.rstrip("."), found, "must be a mapping")
    for key in found:
        if key not in known:
            raise ConfigError(f"{under}{key}", found[key], f"is no key of a claim here; valid: {', '.join(sorted(known))}")
