"""The figures of a comparison: metrics over epochs, updates and examples; lr, B and g over epochs; the final values of every seed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from noisescale.studies.compare import CLOCKS, SCHEDULED, Arm, Comparison, Member
from noisescale.studies.folding import Curve, fold
from noisescale.studies.headline import in_words

__all__ = ["PER_PICTURE", "draw_curves", "draw_finals", "draw_schedules"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Okabe and Ito's colours, which people with colour-blindness tell apart, with brown in place of their yellow."""

STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), "-", "--")
"""A style of line for each colour, for prints without colours."""

PER_PICTURE = len(COLORS)
"""How many arms one picture shows."""

_NAMES = {"lr": "learning rate", "effective_batch_size": "batch size B, examples", "g": "noise, g = lr (N/B - 1)"}
_DPI = 130


def draw_curves(comparison: Comparison, arms: Sequence[Arm], path: Path) -> None:
    """A row per metric, a column per clock; a line per arm, the mean of the runs that count, in a band from the smallest to the largest.

    Runs that do not count are thin lines, which end in a cross if they diverged and in a ring if they ended, or stand, before their end.

    Args:
        comparison: all arms, which give the limits of the axes, so that several pictures can be compared.
        arms: those to draw, up to `PER_PICTURE`.
        path: the PNG file.
    """
    rows = comparison.panels
    figure, axes = _figure((11, 1.0 + 2.5 * len(rows)), len(rows), len(CLOCKS))
    for row, tag in zip(axes, rows, strict=True):
        limits = _Limits.of([member.curve(tag, "epochs")[1] for member in _shown(comparison.members)], tag.endswith("loss"))
        for axis, clock in zip(row, CLOCKS, strict=True):
            for index, arm in enumerate(arms):
                _draw_arm(axis, arm, tag, clock, index, opacity=0.18 if len(arms) <= 4 else 0.1)
            limits.apply(axis)
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
            if clock != "epochs":
                axis.xaxis.set_major_formatter(EngFormatter(sep=""))
                axis.tick_params(labelleft=False, which="both")
            if tag == rows[-1]:
                axis.set_xlabel(clock)
        row[0].set_ylabel(in_words(tag), parse_math=False)
    _legend(figure, axes[0][0], arms)
    _save(figure, path)


def draw_schedules(arms: Sequence[Arm], path: Path) -> None:
    """Learning rate, batch size and noise over epochs, as steps.csv has them; runs of an arm whose rows are alike are one line."""
    figure, axes = _figure((8, 7.5), len(SCHEDULED), 1)
    for (axis,), name in zip(axes, SCHEDULED, strict=True):
        values: list[float] = []
        for index, arm in enumerate(arms):
            for number, (x, y) in enumerate(_distinct([member.scheduled(name) for member in arm.members])):
                label = arm.group.name if number == 0 else None
                axis.step(x, y, where="post", color=COLORS[index], linestyle=STYLES[index], linewidth=1.5, label=label)
                values += y
        positive = [value for value in values if value > 0]
        if name != "lr" and positive and max(positive) > 8 * min(positive):
            axis.set_yscale("log")
            axis.set_ylim(bottom=max(min(positive), max(positive) / 1e5) / 1.5, top=max(positive) * 1.5)
        elif positive:
            axis.set_ylim(bottom=0, top=1.08 * max(positive))
        axis.set_ylabel(_NAMES[name])
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[-1][0].set_xlabel("epochs: examples seen / N")
    _legend(figure, axes[0][0], arms)
    _save(figure, path)


def draw_finals(arms: Sequence[Arm], metrics: Sequence[str], path: Path) -> None:
    """A panel per metric of the test, a row per arm: every seed as a point, mean and standard deviation beside it."""
    names = [_short(arm.group.name, 45) for arm in arms]
    lines = max(name.count("\n") + 1 for name in names)
    figure, axes = _figure((9 + 2 * (len(metrics) - 1), 1.2 + (0.16 + 0.16 * lines) * len(arms)), 1, len(metrics))
    for axis, metric in zip(axes[0], metrics, strict=True):
        for row, arm in enumerate(arms):
            color = COLORS[row % PER_PICTURE]
            values = [value for member in arm.counted if (value := member.tested(metric)) is not None]
            axis.plot(values, [row + 0.15] * len(values), "o", color=color, markersize=4, alpha=0.6, markeredgewidth=0)
            if (found := arm.final(metric)) is not None:
                axis.errorbar(found.mean, row - 0.15, xerr=found.std, fmt="D", color=color, markersize=4, capsize=3, linewidth=1.3)
        axis.set_yticks(range(len(arms)), names if axis is axes[0][0] else [""] * len(arms))
        for label in axis.get_yticklabels():
            label.set_parse_math(False)
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.set_xlabel(metric, parse_math=False)
        axis.grid(alpha=0.3)
    _save(figure, path)


def _figure(size: tuple[float, float], rows: int, columns: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharex="col", squeeze=False)


def _shown(members: Sequence[Member]) -> list[Member]:
    """The runs that decide the limits: those that count, because a diverged one may have any values; all, if none counts."""
    return [member for member in members if member.counts] or list(members)


def _draw_arm(axis: Axes, arm: Arm, tag: str, clock: str, index: int, opacity: float) -> None:
    color, style = COLORS[index], STYLES[index]
    curves = [curve for curve in (member.curve(tag, clock) for member in arm.counted) if curve[0]]
    band = fold(curves)
    if band is not None:
        marker = "o" if len(band.x) == 1 else None
        axis.plot(band.x, band.mean, color=color, linestyle=style, linewidth=1.6, marker=marker, markersize=4)
        axis.fill_between(band.x, band.low, band.high, color=color, alpha=opacity, linewidth=0)
        for x, y in curves:
            if x[-1] > band.x[-1]:
                axis.plot(x, y, color=color, linestyle=style, linewidth=0.6)
    for member in arm.members:
        x, y = member.curve(tag, clock)
        if member.run in [each.run for each in arm.counted] or not x:
            continue
        axis.plot(x, y, color=color, linewidth=0.8)
        axis.plot(x[-1:], y[-1:], "x" if member.run.state == "diverged" else "o", color=color, markersize=5, fillstyle="none")


class _Limits:
    """The limits of an axis: those of the later half of the curves, and as much again for where they come from."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self.low, self.high, self.log = low, high, log

    @classmethod
    def of(cls, curves: Sequence[Sequence[float]], loss: bool) -> _Limits:
        values = [value for curve in curves for value in curve]
        positive = [value for value in values if value > 0]
        if loss and positive and max(positive) > 8 * min(positive):
            usual = 3 * median(max(curve) for curve in curves if curve)  # a few curves that explode do not flatten the others
            return cls(min(positive) / 1.3, 1.3 * (min(max(positive), usual) if usual > min(positive) else max(positive)), True)
        late = [value for curve in curves for value in curve[len(curve) // 2 :]]
        if not late:
            return cls(math.nan, math.nan, False)
        around = 1.5 * (max(late) - min(late)) or 0.05 * abs(late[0]) or 1
        margin = 0.05 * around
        return cls(max(min(values), min(late) - around) - margin, min(max(values), max(late) + around) + margin, False)

    def apply(self, axis: Axes) -> None:
        if self.log:
            axis.set_yscale("log")
        if self.low < self.high:
            axis.set_ylim(self.low, self.high)


def _distinct(curves: Sequence[Curve]) -> list[Curve]:
    found: list[Curve] = []
    for curve in sorted(curves, key=lambda curve: -len(curve[0])):
        if curve[0] and not any(curve == (x[: len(curve[0])], y[: len(curve[0])]) for x, y in found):
            found.append(curve)
    return found


def _legend(figure: Figure, axis: Axes, arms: Sequence[Arm]) -> None:
    handles = [axis.plot([], [], color=COLORS[i], linestyle=STYLES[i], linewidth=1.6)[0] for i in range(len(arms))]
    names = [f"{_short(arm.group.name)} ({_runs(arm)})" for arm in arms]
    two_columns = 2 * (0.085 * max((len(line) for name in names for line in name.splitlines()), default=0) + 0.8) < figure.get_figwidth()
    lines = sum(name.count("\n") + 1 for name in names) / (2 if two_columns else 1)
    figure.set_figheight(figure.get_figheight() + 0.2 * lines)
    legend = figure.legend(handles, names, loc="outside lower center", ncols=2 if two_columns else 1, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign is not a formula


def _runs(arm: Arm) -> str:
    counted, every = len(arm.counted), len(arm.members)
    return f"n = {counted}" if counted == every else f"n = {counted} of {every}"


def _short(name: str, width: int = 90, lines: int = 3) -> str:
    """The name in lines of this width; of a very long one the beginning and the end, where names of arms differ."""
    longest = width * lines - 5
    return textwrap.fill(name if len(name) <= longest else f"{name[: longest // 2]} ... {name[-longest // 2 :]}", width)


def _save(figure: Figure, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=_DPI)
    part.replace(path)
