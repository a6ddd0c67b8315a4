"""The figure of a claim, its curves above its effects, and that of the overview."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from noisescale.studies.claims.checks import Check, Outcome
from noisescale.studies.claims.metrics import Metric
from noisescale.studies.claims.result import Result
from noisescale.studies.runs import COMPLETE

__all__ = ["draw_claim", "draw_overview", "look_of"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's colours, which colour-blind readers can tell apart; with the line styles they also differ in print."""

STYLES = ("-", "--", "-.", ":")

SHADES = {"holds": "#009E73", "open": "#999999", "fails": "#D55E00"}


def draw_claim(result: Result, path: Path) -> None:
    """Draw the curves of the arms over epochs, mean and range over seeds, and each effect with its interval and the region of the claim."""
    claim = result.claim
    checks = list(claim.checks.values())
    curves = [column for column in claim.curves if any(result.runs.values())]
    peaks = [check for check in checks if check.effect == "optimum_slope"]
    height = 3.2 * bool(curves or peaks) + 0.9 + 0.62 * len(checks)
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    lower: Figure | SubFigure = figure
    if curves or peaks:
        upper, lower = figure.subfigures(2, 1, height_ratios=[3.2, height - 3.2], squeeze=False)[:, 0]
        axes = upper.subplots(1, len(curves) + len(peaks), squeeze=False)[0]
        for axis, column in zip(axes, curves, strict=False):
            _curves(axis, column, result)
        for axis, check in zip(axes[len(curves) :], peaks, strict=True):
            _peaks(axis, check, result)
        upper.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    rows = lower.subplots(len(checks), 1, squeeze=False)[:, 0]
    for axis, check in zip(rows, checks, strict=True):
        _effect(axis, check, result.verdict.outcomes[check.name])
    figure.suptitle(f"{claim.name}, scale {claim.scale}, {claim.seeds_in_words}: {result.verdict.word}", fontsize=11)
    _save(figure, path)


def draw_overview(found: Mapping[str, dict[str, Any] | None], path: Path) -> None:
    """Draw for each claim how many of its checks hold, are open and fail, and its verdict."""
    figure = Figure(figsize=(8, 1.1 + 0.36 * max(1, len(found))), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    names = list(found)
    for row, name in enumerate(names):
        each, left = found[name], 0
        states = [check["status"] for check in each["checks"].values()] if each is not None else []
        for state, colour in SHADES.items():
            axis.barh(row, states.count(state), left=left, color=colour, edgecolor="white", height=0.7)
            left += states.count(state)
        axis.text(left + 0.1, row, "not run" if each is None else each["verdict"], va="center", fontsize=9)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("number of checks")
    axis.set_xlim(0, max([len(each["checks"]) for each in found.values() if each is not None], default=1) + 2.5)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for state, colour in SHADES.items():
        axis.barh(0, 0, color=colour, label=state)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _curves(axis: Axes, column: str, result: Result) -> None:
    reader, positive = Metric("epochs", column), True
    for number, (name, runs) in enumerate(result.runs.items()):
        found = [reader.column(run.folder) for run in runs if run is not None and run.state in COMPLETE]
        rows = list(zip(*(each for each in found if each), strict=False))
        if not rows:
            continue
        epochs = range(1, len(rows) + 1)
        means = [math.fsum(row) / len(row) for row in rows]
        positive = positive and min(map(min, rows)) > 0
        colour, style = look_of(number)
        axis.plot(epochs, means, color=colour, linestyle=style, linewidth=1.5, label=name)
        axis.fill_between(epochs, [min(row) for row in rows], [max(row) for row in rows], color=colour, alpha=0.15, linewidth=0)
    if positive and column.endswith("loss"):
        axis.set_yscale("log")
    axis.set_xlabel("epochs")
    axis.set_ylabel(column)
    axis.grid(alpha=0.3)


def _peaks(axis: Axes, check: Check, result: Result) -> None:
    """The metric of each family less its best mean, over the number at which it has its peak: mean and range over the seeds.

    What lies far below the peaks is cut off: a batch that is too small may break the training, beside which no peak could be seen.
    """
    falls = []
    for number, (x, points) in enumerate(check.curve.items()):
        found = {float(at): result.values[check.metric].get(str(arm), ()) for arm, at in points.items()}
        rows = {at: [value for value in values if value is not None] for at, values in sorted(found.items())}
        rows = {at: values for at, values in rows.items() if values}
        if not rows:
            continue
        means = [math.fsum(values) / len(values) for values in rows.values()]
        best = max(means)
        falls.append(best - means[-1])
        colour, style = look_of(number)
        label = str(next(iter(points))).rpartition("_")[0] or str(x)
        axis.plot([*rows], [mean - best for mean in means], color=colour, linestyle=style, marker="o", markersize=4, label=label)
        low, high = ([end(values) - best for values in rows.values()] for end in (min, max))
        axis.fill_between([*rows], low, high, color=colour, alpha=0.15, linewidth=0)
    if falls and max(falls) > 0:
        axis.set_ylim(-2 * max(falls), max(falls) / 2)
    axis.set_xscale("log", base=2)
    ticks = sorted({float(at) for points in check.curve.values() for at in points.values()})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("B")
    axis.set_ylabel(f"{check.metric} - its best")
    axis.set_title(check.name, fontsize=9)
    axis.grid(alpha=0.3)


def look_of(number: int) -> tuple[str, str]:
    """The colour and the line style of the arm with this number, different from those of the 31 before it."""
    return COLOURS[number % len(COLOURS)], STYLES[(number + number // len(COLOURS)) % len(STYLES)]


def _effect(axis: Axes, check: Check, outcome: Outcome) -> None:
    """One interval, over the claimed region in grey."""
    effect = outcome.effect
    ends = [*(check.inside or ()), *(check.outside or ()), *(bound for bound in (check.above, check.below) if bound is not None)]
    shown = [*ends, *((effect.shown, outcome.low, outcome.high) if effect is not None else ())]
    shown = [value for value in shown if math.isfinite(value)]
    low, high = min(shown), max(shown)
    if check.effect == "ratio" and low > 0:
        axis.set_xscale("log")
        margin = max(high / low, 1.1) ** 0.25
        low, high = low / margin, high * margin
    else:
        margin = 0.25 * ((high - low) or abs(high) or 1.0)
        low, high = low - margin, high + margin
    for start, end in _claimed(check, low, high):
        axis.axvspan(start, end, color="#009E73", alpha=0.12, linewidth=0)
    for end in ends:
        axis.axvline(end, color="grey", linestyle=":", linewidth=1)
    if effect is not None:
        colour = SHADES[outcome.status]
        axis.plot([max(low, outcome.low), min(high, outcome.high)], [0, 0], color=colour, linewidth=2, marker="|", markersize=9)
        axis.plot([effect.shown], [0], color=colour, marker="o", markersize=6)
    axis.set_xlim(low, high)
    if axis.get_xscale() == "log":
        digits = 3 if high / low < 2 else 2
        ticks = [float(f"{low * (high / low) ** (part / 6):.{digits}g}") for part in range(1, 6)]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    axis.set_ylim(-1, 1)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right", "left"]].set_visible(False)
    name = f"{check.name} (control)" if check.control else check.name
    axis.set_title(f"{name}: {outcome.status}", loc="left", fontsize=8, pad=2)


def _claimed(check: Check, low: float, high: float) -> list[tuple[float, float]]:
    if check.outside is not None:
        return [(low, check.outside[0]), (check.outside[1], high)]
    return [(max(low, check.low), min(high, check.high))]


def _save(figure: Figure, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)
