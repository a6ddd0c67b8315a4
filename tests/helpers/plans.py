"""Plans for tests: random ones over all schedules, strategies, devices and limits, drawn by hypothesis, and plans of the default data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from hypothesis import strategies as st

from noisescale import schedules
from noisescale.plans import strategies as batching
from noisescale.plans.duality import CyclicBatch, Dual
from noisescale.plans.plan import Plan, Update
from noisescale.plans.strategies import LAST_WINDOW, BatchStrategy, Fixed, Full, Linear, MultiStep
from noisescale.schedules import Constant, Schedule

# -- the default data set -----------------------------------------------------------------------------------------------------

N = 1293
CUT = schedules.MultiStep([10, 15], 0.1)
TO_THE_FULL_BATCH = batching.MultiStep(32, [1], 1000)


def plan_of(schedule: Schedule, strategy: BatchStrategy, epochs: int = 20, **options: Any) -> Plan:
    return Plan(schedule.with_horizon(epochs), strategy, options.pop("num_examples", N), epochs, **options)


# -- any plan ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wild(BatchStrategy):
    """A batch size that jumps from example to example: the hardest strategy that a plan can have."""

    seed: int

    def check(self, num_examples: int) -> None:
        pass

    def size_at(self, epoch: float, factor: float, num_examples: int) -> int:
        return 1 + (round(epoch * num_examples) * 7919 + self.seed) % num_examples


SCHEDULES: st.SearchStrategy[Schedule] = st.sampled_from(
    [
        Constant(),
        schedules.Step(0.3, 0.5),
        schedules.MultiStep([0.5, 1, 2], 0.2),
        schedules.Cosine(5, 0.1),
        schedules.CosineRestarts(0.7, 2),
        schedules.Warmup(0.5, 0.1).before(schedules.Exponential(gamma=0.9), 5),
        schedules.Linear(3, 0, 2),
    ]
)


@st.composite
def strategies(draw: st.DrawFn, n: int, last: str) -> BatchStrategy:
    rule = draw(st.sampled_from(["none", "linear", "sqrt"]))
    micro = draw(st.none() | st.integers(1, n))
    step = micro or 1
    sizes = st.integers(1, n // step).map(lambda m: m * step)
    common: dict[str, Any] = {
        "last": last,
        "lr_rule": rule,
        "reference_size": draw(st.integers(1, 64)),
        "micro_batch_size": micro,
    }
    common["match_last"] = draw(st.booleans())
    kind = draw(st.sampled_from(["fixed", "full", "multistep", "linear", "wild", "dual", "cyclic"]))
    if kind in ("dual", "cyclic") and n > step:
        common |= {"rule": draw(st.sampled_from(["sgd", "adaptive"])), "match": draw(st.sampled_from(["exact", "ratio"]))}
        size = step * draw(st.integers(1, (n - 1) // step))
        if kind == "cyclic":
            return CyclicBatch(size, draw(st.floats(0.1, 2)), base_factor=draw(st.floats(0.01, 1)), **common)
        return Dual(size, growth=draw(st.floats(0, 1)), max_size=draw(st.none() | sizes.map(lambda cap: max(cap, size))), **common)
    if kind == "fixed":
        return Fixed(draw(sizes), **common)
    if kind == "multistep":
        return MultiStep(draw(sizes), [0.4, 1, 2.5], draw(st.floats(1, 6)), **common)
    if kind == "linear":
        return Linear(draw(sizes), draw(sizes), draw(st.floats(0.2, 5)), **common)
    common["micro_batch_size"] = None
    return Full(**common) if kind == "full" else Wild(draw(st.integers(0, 100)), **common)


@st.composite
def plans(draw: st.DrawFn, last: str | None = None, limited: bool = False) -> Plan:
    """A plan of up to 4 passes over up to 200 examples; with `limited` its number of updates may be limited too."""
    n = draw(st.integers(1, 200))
    bounds = st.none() | st.integers(1, 30) if limited else st.none()
    return Plan(
        schedule=draw(SCHEDULES),
        strategy=draw(strategies(n, last or draw(st.sampled_from(LAST_WINDOW)))),
        num_examples=n,
        epochs=draw(st.integers(1, 4)),
        world_size=draw(st.integers(1, 5)),
        max_micro_batch_size=draw(st.none() | st.integers(1, 50)),
        max_updates=draw(bounds),
        max_updates_per_epoch=draw(bounds),
    )


# -- plans whose batch carries noise --------------------------------------------------------------------------------------------


@st.composite
def decays(draw: st.DrawFn) -> Schedule:
    """Every schedule, with zeros, with values above 1, and with a horizon that may end before the training does."""
    horizon, share, base = draw(st.floats(0.5, 5.0)), draw(st.floats(0.01, 1.0)), draw(st.sampled_from([0.0, 0.001, 0.2, 1.0]))
    kinds: list[Callable[[], Schedule]] = [
        schedules.Constant,
        lambda: schedules.Step(horizon / 3, share),
        lambda: schedules.MultiStep([horizon / 4, horizon / 2, 1.01 * horizon], share),
        lambda: schedules.Inverse(10 * share),
        lambda: schedules.Exponential(gamma=share),
        lambda: schedules.Exponential(rate=5 * share),
        lambda: schedules.Polynomial(draw(st.sampled_from([0.3, 1, 2, 7])), horizon),
        lambda: schedules.Linear(draw(st.sampled_from([0.001, 1, 3, 300])), draw(st.sampled_from([0.0, 0.1, 1, 5])), horizon),
        lambda: schedules.Cosine(horizon, base, shape=draw(st.sampled_from(["half", "quarter"]))),
        lambda: schedules.CosineRestarts(horizon / 2, draw(st.sampled_from([1, 2])), base),
        lambda: schedules.Cyclic(
            horizon / 5,
            draw(st.none() | st.just(horizon / 3)),
            draw(st.sampled_from(["triangular", "triangular2", "exp_range"])),
            share,
            base,
            wave=draw(st.sampled_from(["triangle", "square"])),
        ),
        lambda: schedules.OneCycle(horizon, min(share, 0.9), draw(st.sampled_from(["cos", "linear"]))),
        lambda: schedules.WSD(share, draw(st.sampled_from(["linear", "cosine", "sqrt"])), base, horizon),
    ]
    return draw(st.sampled_from(kinds))()


@st.composite
def warmed(draw: st.DrawFn) -> Schedule:
    """One of `decays`, most often with a warm-up."""
    length, first = draw(st.sampled_from([0.0, 0.3, 1.5])), draw(st.floats(0.01, 1.0))
    shape, mode = draw(st.sampled_from(["linear", "constant"])), draw(st.sampled_from(["overlap", "shift"]))
    return schedules.Warmup(length, first, shape, mode).before(draw(decays()), 4)


@st.composite
def common_keys(draw: st.DrawFn, n: int) -> dict[str, Any]:
    """The keys that every matched strategy has; `size` is below n and a multiple of the micro-batch size."""
    micro = draw(st.none() | st.integers(1, max(1, min(n - 1, 40))))
    step = micro or 1
    return {
        "size": step * draw(st.integers(1, (n - 1) // step)),
        "rule": draw(st.sampled_from(["sgd", "adaptive"])),
        "match": draw(st.sampled_from(["exact", "ratio"])),
        "last": draw(st.sampled_from(LAST_WINDOW)),
        "micro_batch_size": micro,
        "lr_rule": draw(st.sampled_from(["none", "linear", "sqrt"])),
        "reference_size": draw(st.integers(1, 64)),
    }


@st.composite
def duals(draw: st.DrawFn, n: int) -> Dual:
    common = draw(common_keys(n))
    size, step = common["size"], common["micro_batch_size"] or 1
    cap = st.none() | st.just(size) | st.integers(size // step, n // step).map(lambda steps: steps * step)
    growth = draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0.0, 1.0))
    return Dual(**common, growth=growth, max_size=draw(cap))


@st.composite
def waves(draw: st.DrawFn, n: int) -> CyclicBatch:
    return CyclicBatch(
        **draw(common_keys(n)),
        step_size_up=draw(st.floats(0.1, 2.0)),
        step_size_down=draw(st.none() | st.floats(0.1, 2.0)),
        mode=draw(st.sampled_from(["triangular", "triangular2", "exp_range"])),
        gamma=draw(st.floats(0.1, 1.0)),
        base_factor=draw(st.sampled_from([0.001, 0.2, 1.0])),
        wave=draw(st.sampled_from(["triangle", "square"])),
    )


@st.composite
def matched_plans(draw: st.DrawFn, match_last: bool | None = None) -> Plan:
    """A plan of a matched strategy, over 2 to 200 examples or for a few updates on a large data set."""
    n = draw(st.integers(2, 5) | st.integers(2, 200) | st.sampled_from([50_000, 1_281_167]))
    strategy = draw(duals(n) | waves(n))
    return Plan(
        draw(warmed()),
        replace(strategy, match_last=draw(st.booleans()) if match_last is None else match_last),
        n,
        4,
        world_size=draw(st.integers(1, 5)),
        max_micro_batch_size=draw(st.none() | st.integers(1, 50)),
        max_updates=200,
        max_updates_per_epoch=draw(st.none() | st.just(40 if n > 200 else 3)),
    )


def passes(plan: Plan) -> Iterator[list[Update]]:
    for _, updates in groupby(plan, key=lambda update: plan.epoch_of(update.start)):
        yield list(updates)
