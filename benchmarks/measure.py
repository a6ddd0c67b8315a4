"""Interleaved rounds, medians, ratios, and the file that stores them."""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from noisescale.files import write_atomically

__all__ = ["Comparison", "Measured", "Ratio", "Wanted", "machine", "measure", "save", "show"]

ROOT = Path(__file__).resolve().parents[1]

UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True)
class Wanted:
    """A ratio of two contenders' costs, and its bound.

    Args:
        cost, to: names of contenders.
        at_most, at_least: the bound, at most one of the two; with neither, the ratio is only reported.
    """

    cost: str
    to: str
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Contenders that do the same work.

    Args:
        title: what is compared.
        contenders: name -> a function that does the work once and returns its seconds per `per`.
        ratios: the ratios to report, with their bounds.
        per: step, example, command, ...: the unit of work that the seconds refer to.
        unit: us, ms or s: the unit in which times are shown.
        examples: number of examples in one `per`, for a column of examples per second; None: no column.
        once_before: run every contender once, unmeasured, before the first round.
        limits: contender -> the most seconds that its median should take.
    """

    title: str
    contenders: Mapping[str, Callable[[], float]]
    ratios: Sequence[Wanted]
    per: str = "step"
    unit: str = "us"
    examples: int | None = None
    once_before: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """A ratio over the rounds: the two costs of each round are divided, so that a slowdown of the machine cancels.

    Attributes:
        median, low, high: over the rounds.
        met: whether the median meets the bound; None if there is no bound.
    """

    cost: str
    to: str
    median: float
    low: float
    high: float
    at_most: float | None
    at_least: float | None
    met: bool | None

    @classmethod
    def of(cls, wanted: Wanted, seconds: Mapping[str, Sequence[float]]) -> Ratio:
        """The ratio that `wanted` names, from the seconds of every round."""
        rounds = [a / b for a, b in zip(seconds[wanted.cost], seconds[wanted.to], strict=True)]
        middle, met = median(rounds), None
        if wanted.at_most is not None:
            met = middle <= wanted.at_most
        if wanted.at_least is not None:
            met = middle >= wanted.at_least
        return cls(wanted.cost, wanted.to, middle, min(rounds), max(rounds), wanted.at_most, wanted.at_least, met)

    @property
    def bound(self) -> str:
        """`<= 1.1`, or empty if there is no bound."""
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}" if self.at_least is not None else ""


@dataclass(frozen=True)
class Measured:
    """The results of a comparison.

    Attributes:
        seconds: contender -> seconds per `per`, for each round.
        medians: contender -> the median of its seconds.
        limits: contender -> the most seconds that its median should take.
    """

    title: str
    per: str
    unit: str
    examples: int | None
    seconds: dict[str, list[float]]
    medians: dict[str, float]
    ratios: list[Ratio]
    limits: dict[str, float]


def measure(comparison: Comparison, rounds: int, console: Console) -> Measured:
    """Run every contender once per round, in turn (A B C D, A B C D, ...), and print a line per round."""
    if comparison.once_before:
        for number, (name, contender) in enumerate(comparison.contenders.items(), start=1):
            console.print(f"{comparison.title}: warm-up {number} of {len(comparison.contenders)}: {name}")
            contender()
    seconds: dict[str, list[float]] = {name: [] for name in comparison.contenders}
    scale = UNITS[comparison.unit]
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        for name, contender in comparison.contenders.items():
            gc.collect()
            gc.freeze()  # so that existing objects are not scanned again and again; train.py does it, too, and here all contenders get it
            seconds[name].append(contender())
            gc.unfreeze()
        costs = " / ".join(_digits(each[-1] * scale) for each in seconds.values())
        console.print(
            f"{comparison.title}: round {number} of {rounds}, {time.perf_counter() - started:.1f} s: "
            f"{costs} {comparison.unit} per {comparison.per}"
        )
    medians = {name: median(values) for name, values in seconds.items()}
    ratios = [Ratio.of(wanted, seconds) for wanted in comparison.ratios]
    shape = comparison.title, comparison.per, comparison.unit, comparison.examples
    return Measured(*shape, seconds, medians, ratios, dict(comparison.limits))


def show(measured: Measured, console: Console) -> None:
    """Print two tables, of the medians and of the ratios."""
    scale = UNITS[measured.unit]
    costs = Table(title=f"\n{measured.title}", title_justify="left", title_style="bold")
    costs.add_column("")
    costs.add_column(f"{measured.unit} per {measured.per}, median", justify="right")
    costs.add_column("range", justify="right")
    if measured.examples is not None:
        costs.add_column("examples/s", justify="right")
    if measured.limits:
        costs.add_column("target")
    for name, value in measured.medians.items():
        low, high = min(measured.seconds[name]), max(measured.seconds[name])
        row = [name, _digits(value * scale), f"{_digits(low * scale)} to {_digits(high * scale)}"]
        if measured.examples is not None:
            row.append(f"{measured.examples / value:,.0f}")
        if name in measured.limits:
            row.append(f"<= {measured.limits[name] * scale:g}  {'met' if value <= measured.limits[name] else 'MISSED'}")
        costs.add_row(*row)
    console.print(costs)
    if not measured.ratios:
        return
    ratios = Table()
    for name in ("ratio", "median", "range", "target", ""):
        ratios.add_column(name, justify="left" if name in ("ratio", "") else "right")
    for each in measured.ratios:
        verdict = "" if each.met is None else "met" if each.met else "MISSED"
        ratios.add_row(f"{each.cost} / {each.to}", f"{each.median:.3g}", f"{each.low:.3g} to {each.high:.3g}", each.bound, verdict)
    console.print(ratios)


def save(path: Path, part: str, measured: Sequence[Measured], rounds: int, quick: bool) -> None:
    """Write one part to the file, with the machine that it ran on; other parts in the file stay as they are."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    found[part] = {
        "when": when,
        "quick": quick,
        "rounds": rounds,
        "machine": machine(),
        "comparisons": [asdict(each) for each in measured],
    }
    write_atomically(path, json.dumps(found, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """The machine and the versions with which the numbers were measured."""
    import torch

    from noisescale.app.results import versions

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        **versions(),
        "torchvision": version("torchvision"),
        "torchmetrics": version("torchmetrics"),
    }


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _cpu_model() -> str:
    if sys.platform == "linux":
        facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in facts.items()}
        if "model name" in named:
            return f"{named['model name']}, family {named.get('cpu family', '?')} model {named.get('model', '?')}"
    return platform.processor()
