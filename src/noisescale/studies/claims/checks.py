"""One comparison of a claim: an effect, and the region in which the claim says that it lies, fixed before any run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noisescale.errors import ConfigError, check_choice, check_number
from noisescale.studies.claims.effects import Effect, mean_of, optimum, ratio, slope, welch

__all__ = ["ALPHA", "EFFECTS", "Check", "Outcome", "Values"]

ALPHA = 0.05
"""The level of every one-sided test."""

Values = Mapping[str, Mapping[str, Sequence[float | None]]]
"""metric -> arm -> one value per seed, in the same order of seeds for every arm; None where a run has none."""


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        status: holds | fails | open.
        effect: the estimate; None if there is none.
        low, high: the bounds of its interval.
        p: the p-value of the test that decides whether the check holds; for equality the larger of the two of TOST.
        why: why there is no estimate; may be empty.
    """

    status: str
    effect: Effect | None = None
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    why: str = ""


@dataclass(frozen=True)
class Check:
    """An effect and the region of the claim: exactly one of `inside`, `outside`, `above` and `below`.

    The check holds if the whole interval of the effect lies in the region, and fails if the whole interval, at a level that is divided by
    the number of checks, lies outside of it; otherwise it is open. `inside` around 0 (or around 1 for a ratio) is equality, tested by
    TOST; it is never shown by the absence of a difference.

    Args:
        name: how the claim calls it.
        effect: one of `EFFECTS`.
        arms: what is compared. `difference`, `ratio`, `unpaired`: two arms, the first against the second. `mean`: one arm.
        metric: the metric by name.
        curve: of `slope`: arm -> x. Of `optimum_slope`: x -> (arm -> the number over which it is best).
        control: a comparison that must come out as stated so that the others mean anything; its failure makes a claim inconclusive.
        says: the check in words.
    """

    name: str
    effect: str
    arms: tuple[str, ...]
    metric: str
    inside: tuple[float, float] | None = None
    outside: tuple[float, float] | None = None
    above: float | None = None
    below: float | None = None
    control: bool = False
    says: str = ""
    curve: Mapping[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("effect", self.effect, EFFECTS)
        given = [name for name in ("inside", "outside", "above", "below") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError("inside", self.inside, "a check has exactly one of inside, outside, above and below", f"given: {given}")
        for name in ("inside", "outside"):
            bounds = getattr(self, name)
            if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
                raise ConfigError(name, bounds, "must be [low, high] with low < high")
            for bound in bounds or ():
                check_number(name, bound)
        for name in ("above", "below"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        wanted = {"difference": 2, "unpaired": 2, "ratio": 2, "mean": 1}.get(self.effect)
        if wanted is not None and len(self.arms) != wanted:
            raise ConfigError(self.effect, list(self.arms), f"must name {wanted} arm{'s' if wanted > 1 else ''}")
        if wanted == 2 and self.arms[0] == self.arms[1]:
            raise ConfigError(self.effect, list(self.arms), "must name two different arms")
        if wanted is None and len(self.curve) < 2:
            raise ConfigError(self.effect, dict(self.curve), "must name at least two points")

    @property
    def is_equality(self) -> bool:
        """Whether it says that two arms are the same, so that a control must show that a difference would have been seen."""
        return self.inside is not None and self.effect in ("difference", "ratio", "unpaired")

    @property
    def low(self) -> float:
        """The lower bound of the region that `inside` and `above` describe."""
        return self.inside[0] if self.inside else self.above if self.above is not None else -math.inf

    @property
    def high(self) -> float:
        """The upper bound of the region that `inside` and `below` describe."""
        return self.inside[1] if self.inside else self.below if self.below is not None else math.inf

    def judge(self, values: Values, checks: int = 1) -> Outcome:
        """What the values say.

        Args:
            values: of all metrics and arms.
            checks: how many checks can refute the claim: each refutes at the level ALPHA / checks, so that a claim that is true is refuted
                by chance with probability ALPHA at most. Supporting needs no correction, because all checks must hold.
        """
        per_arm = [values.get(self.metric, {}).get(arm, ()) for arm in self.arms]
        for arm, found in zip(self.arms, per_arm, strict=True):
            if not found or any(value is None for value in found):
                return Outcome("open", why=f"{arm} has no {self.metric}" + (f" in {sum(v is None for v in found)} runs" if found else ""))
        numbers = [[float(value) for value in found if value is not None] for found in per_arm]
        if self.effect in ("ratio", "slope") and min(map(min, numbers)) <= 0:
            return Outcome("open", why=f"{self.metric} is not positive everywhere, so it has no logarithm")
        effect = EFFECTS[self.effect](self, numbers)
        if math.isnan(effect.value):
            return Outcome("open", why=f"the best {self.metric} is at an end of a grid for some seed, so that its peak is not known")
        return self._of(effect, checks)

    def _of(self, effect: Effect, checks: int) -> Outcome:
        if self.outside is not None:
            low, high = effect.interval(ALPHA / 2)
            p = min(1.0, 2 * min(effect.p_below(self.outside[0]), effect.p_above(self.outside[1])))
            holds = high < self.outside[0] or low > self.outside[1]
            wide = effect.interval(ALPHA / checks)
            fails = effect.n > 1 and self.outside[0] <= wide[0] and wide[1] <= self.outside[1]
        else:
            low, high = effect.interval(ALPHA)
            p = max([effect.p_above(self.low)] * (self.low > -math.inf) + [effect.p_below(self.high)] * (self.high < math.inf))
            holds = effect.n > 1 and low > self.low and high < self.high
            wide = effect.interval(ALPHA / checks)
            fails = effect.n > 1 and (wide[1] <= self.low or wide[0] >= self.high)
        return Outcome("holds" if holds else "fails" if fails else "open", effect, low, high, p)


def _difference(check: Check, numbers: list[list[float]]) -> Effect:
    first, second = numbers
    return mean_of([a - b for a, b in zip(first, second, strict=True)])


def _optimum_slope(check: Check, numbers: list[list[float]]) -> Effect:
    of = dict(zip(check.arms, numbers, strict=True))
    best = [
        [optimum({float(at): of[arm][seed] for arm, at in points.items()}) for seed in range(len(numbers[0]))]
        for points in check.curve.values()
    ]
    return slope([float(x) for x in check.curve], best)


EFFECTS: dict[str, Callable[[Check, list[list[float]]], Effect]] = {
    "difference": _difference,
    "unpaired": lambda check, numbers: welch(*numbers),
    "ratio": lambda check, numbers: ratio(*numbers),
    "mean": lambda check, numbers: mean_of(numbers[0]),
    "slope": lambda check, numbers: slope([float(check.curve[arm]) for arm in check.arms], numbers),
    "optimum_slope": _optimum_slope,
}
"""The effects. `difference`, `ratio`: the first arm against the second, seed by seed. `unpaired`: Welch's difference. `mean`: of one arm.
`slope`: the exponent p of metric ~ x^p over arms with different x. `optimum_slope`: the exponent of the x at which the metric is best, over
families of arms, against another number that differs between the families."""
