"""The figure of branches: the loss over the batch size at each checkpoint, and the critical batch over the epochs beside B_simple."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisescale.studies.branch_results import PointFound, RuleFound

__all__ = ["draw_branches", "draw_losses", "draw_sizes"]

STYLES = {"linear": ("-", "o"), "sqrt": ("--", "s")}


def draw_branches(found: Sequence[PointFound], title: str, path: Path, tolerance: float) -> None:
    """Draw what branches have shown, and write the figure as PNG, atomically.

    Left: the loss at the end against that of the smallest batch, with 90 % intervals; what is lost beyond the dotted line is worse. Right:
    the brackets of the critical batch over the epochs, open at the top where no size was worse, beside B_simple.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    draw_losses(left, found, tolerance)
    draw_sizes(right, found)
    figure.suptitle(textwrap.fill(title, 130), fontsize=10, parse_math=False)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)


def draw_losses(axis: Any, found: Sequence[PointFound], tolerance: float) -> None:
    top = 1.0 + tolerance
    for number, point in enumerate(found):
        for rule in point.rules:
            line, marker = STYLES[rule.rule]
            shown = [each for each in rule.sizes if math.isfinite(each.compared.mean)]
            ratios = [math.exp(each.compared.mean) for each in shown]
            low = [ratio - math.exp(each.compared.low) for ratio, each in zip(ratios, shown, strict=True)]
            high = [math.exp(each.compared.high) - ratio for ratio, each in zip(ratios, shown, strict=True)]
            top = max([top, *ratios])
            label = f"epoch {point.at.epoch:.3g}" + (f", lr {rule.rule} in B" if len(point.rules) > 1 else "")
            sizes = [each.size for each in shown]
            axis.errorbar(sizes, ratios, yerr=(low, high), color=f"C{number}", linestyle=line, marker=marker, capsize=3, label=label)
            for each in rule.sizes:
                if math.isinf(each.compared.mean):
                    axis.annotate("diverged", (each.size, 1.0), color=f"C{number}", rotation=90, ha="center", fontsize=8)
    axis.axhline(1 + tolerance, color="grey", linestyle=":", label=f"{100 * tolerance:g} % lost")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_ylim(0.5, min(max(1.5 * top, 2.0), 100.0))
    axis.set_xlabel("batch size of the branch, examples")
    axis.set_ylabel("loss / loss with the smallest batch")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_sizes(axis: Any, found: Sequence[PointFound]) -> None:
    epochs = [point.at.epoch for point in found]
    for number, rule in enumerate(dict.fromkeys(rule.rule for point in found for rule in point.rules)):
        pairs = [(point.at.epoch, each) for point in found for each in point.rules if each.rule == rule]
        color = f"C{number}"
        for index, (epoch, each) in enumerate(pairs):
            label = f"critical batch, lr {rule} in B" if index == 0 else None
            _bracket(axis, epoch, each, color, label)
    simple = [point.at.noise_scale for point in found]
    axis.plot(epochs, simple, color="black", marker="x", linestyle=":", label="B_simple = tr(Sigma) / |G|^2")
    axis.plot(epochs, [point.at.size for point in found], color="grey", linestyle="-", label="B of the training")
    axis.set_yscale("log", base=2)
    axis.set_xlabel("epoch of the checkpoint")
    axis.set_ylabel("examples")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _bracket(axis: Any, epoch: float, rule: RuleFound, color: str, label: str | None) -> None:
    low, high = rule.critical.at_least, rule.critical.below
    if math.isfinite(high):
        middle = rule.critical.estimate if math.isfinite(rule.critical.estimate) else math.sqrt(low * high)
        middle = min(max(middle, low), high)
        axis.errorbar([epoch], [middle], yerr=([middle - low], [high - middle]), color=color, marker="o", capsize=5, label=label)
    else:
        axis.errorbar([epoch], [low], yerr=([0], [low]), lolims=True, color=color, marker="o", label=label)
