"""The figure of branches: the loss over the batch size at each checkpoint, and the critical batch over the epochs beside B_simple."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from noisescale.studies.branch_results import PointFound, RuleFound

__all__ = ["draw_branches", "draw_losses", "draw_sizes"]

STYLES = {"linear": ("-", "o"), "sqrt": ("--", "s")}


def draw_branches(found: Sequence[PointFound], title: str, path: Path) -> None:
    """Draw what branches have shown, and write the figure as PNG, atomically.

    Left: the loss at the end against that of the smallest batch, with 90 % intervals; what lies above the dotted line of a checkpoint is
    worse. Right: the brackets of the critical batch over the epochs, open at the top where no size was worse, beside B_simple. One
    checkpoint has no right side: its B and its B_simple are lines across the losses.
    """
    several = len(found) > 1
    figure = Figure(figsize=(11 if several else 6.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    draw_losses(axes[0], found)
    if several:
        draw_sizes(axes[1], found)
    else:
        _mark_sizes(axes[0], found)
    figure.suptitle(textwrap.fill(title, 130 if several else 80), fontsize=10, parse_math=False)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)


def draw_losses(axis: Any, found: Sequence[PointFound]) -> None:
    """Draw the losses at the end of the branches, relative to that of the smallest batch."""
    series = [(number, point, rule) for number, point in enumerate(found) for rule in point.rules]
    ends = [end for number, point, rule in series for end in _draw_rule(axis, rule, f"C{number}", _label(found, point, rule))]
    if ends:
        axis.plot([], [], color="grey", linestyle=":", label="worse above this" + (", each in its colour" if len(series) > 1 else ""))
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.set_yscale("log")
    lowest, highest = min([1.0, *ends]), max([1.0, *ends])
    margin = max((highest / lowest) ** 0.06, 1.01)
    lowest, highest = max(lowest / margin, 0.2), min(highest * margin, 30.0)
    axis.set_ylim(lowest, highest)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if highest / lowest > 4 else MaxNLocator(6))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("batch size of the branch, examples")
    axis.set_ylabel("loss / loss with the smallest batch")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _label(found: Sequence[PointFound], point: PointFound, rule: RuleFound) -> str:
    """What a series has that others have not."""
    parts = [f"epoch {point.at.epoch:.3g}"] if len(found) > 1 else []
    parts += [f"lr {rule.rule} in B"] if len(point.rules) > 1 else []
    return ", ".join(parts) or "mean over seeds, 90 % interval"


def _draw_rule(axis: Any, rule: RuleFound, color: str, label: str) -> list[float]:
    """Draw one series and its limit; returns the ends of its intervals, and the limit."""
    line, marker = STYLES[rule.rule]
    shown = [each for each in rule.sizes if math.isfinite(each.compared.mean)]
    ratios = [math.exp(each.compared.mean) for each in shown]
    low = [ratio - math.exp(each.compared.low) for ratio, each in zip(ratios, shown, strict=True)]
    high = [math.exp(min(each.compared.high, 10.0)) - ratio for ratio, each in zip(ratios, shown, strict=True)]
    sizes = [each.size for each in shown]
    axis.errorbar(sizes, ratios, yerr=(low, high), color=color, linestyle=line, marker=marker, capsize=3, label=label)
    for each in rule.sizes:
        if math.isinf(each.compared.mean):
            place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top"}
            axis.annotate("diverged", (each.size, 0.98), color=color, rotation=90, fontsize=8, **place)
    limit = 1.0 + rule.reference.allowed / rule.sizes[0].loss if ratios and rule.sizes[0].loss > 0 else math.nan
    if not math.isfinite(limit):
        return []
    axis.axhline(limit, color=color, linestyle=":", linewidth=1)
    return [limit, *(ratio - below for ratio, below in zip(ratios, low, strict=True)), *(a + b for a, b in zip(ratios, high, strict=True))]


def _mark_sizes(axis: Any, found: Sequence[PointFound]) -> None:
    """Draw B and B_simple of the only checkpoint as lines across the losses."""
    for point in found:
        axis.axvline(point.at.size, color="grey", linewidth=1, label="B of the training")
        if math.isfinite(point.at.noise_scale):
            axis.axvline(point.at.noise_scale, color="black", linestyle="--", linewidth=1, label="B_simple")
    axis.legend(fontsize=8)


def draw_sizes(axis: Any, found: Sequence[PointFound]) -> None:
    """Draw the brackets of the critical batch over the epochs."""
    if not any(point.rules for point in found):
        axis.set_axis_off()
        return
    epochs = [point.at.epoch for point in found]
    rules = list(dict.fromkeys(rule.rule for point in found for rule in point.rules))
    alone = len(set(epochs)) == 1
    beside = 0.15 if alone else 0.0  # brackets of one checkpoint would hide each other
    for number, rule in enumerate(rules):
        pairs = [(point.at.epoch, each) for point in found for each in point.rules if each.rule == rule]
        label = f"critical batch, lr {rule} in B" if len(rules) > 1 else "critical batch"
        for index, (epoch, each) in enumerate(pairs):
            _bracket(axis, epoch + beside * (number + 1), each, f"C{number}", label if index == 0 else None)
    known = [(point.at.epoch, point.at.noise_scale) for point in found if math.isfinite(point.at.noise_scale)]
    if known:
        line = "" if alone else ":"
        axis.plot(*zip(*known, strict=True), color="black", marker="x", linestyle=line, label="B_simple = tr(Sigma) / |G|^2")
    sizes = [point.at.size for point in found]
    axis.plot(epochs, sizes, color="grey", linestyle="" if alone else "-", marker="_", markersize=14, label="B of the training")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter("{x:.0f}")
    if alone:
        axis.set_xticks(epochs[:1], [f"{epochs[0]:.3g}"])
        axis.set_xlim(epochs[0] - 1, epochs[0] + 1)
    axis.set_xlabel("epoch of the checkpoint")
    axis.set_ylabel("examples")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _bracket(axis: Any, epoch: float, rule: RuleFound, color: str, label: str | None) -> None:
    low, high = rule.critical.at_least, rule.critical.below
    if math.isfinite(high):
        middle = rule.critical.estimate if math.isfinite(rule.critical.estimate) else math.sqrt(low * high)
        axis.errorbar([epoch], [middle], yerr=([middle - low], [high - middle]), color=color, marker="o", capsize=5, label=label)
    else:
        axis.errorbar([epoch], [low], yerr=([0], [low]), lolims=True, color=color, marker="o", label=label)
