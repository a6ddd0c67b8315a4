"""The figure of a recommendation: the speeds, the range test, the branches, and the critical batch over the epochs."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisescale.studies.branch_figure import draw_losses, draw_sizes
from noisescale.studies.measured import Measured, Rates, Speed
from noisescale.studies.recommendation import FAST, Recommendation

__all__ = ["draw_recommendation"]


def draw_recommendation(measured: Measured, found: Recommendation, title: str, path: Path) -> None:
    """Draw what was measured, with the recommended batch size and learning rate as dashed lines, as PNG, written atomically."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _draw_speeds(axes[0, 0], measured.speeds)
    _draw_rates(axes[0, 1], measured.rates)
    if measured.branches:
        draw_losses(axes[1, 0], measured.branches)
        draw_sizes(axes[1, 1], measured.branches)
    else:
        for axis in axes[1]:
            _empty(axis, "no branches were trained")
    for axis in (axes[0, 0], axes[1, 0]):
        axis.axvline(found.batch_size, color="black", linestyle="--", linewidth=1)
    if measured.rates is not None:
        axes[0, 1].axvline(measured.rates.chosen, color="black", linestyle="--", linewidth=1)
    said = f"{title}: B = {found.batch_size}, lr = {found.lr:.3g}{'' if found.is_sure else ' (not sure)'}"
    figure.suptitle(textwrap.fill(said, 130), fontsize=10, parse_math=False)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)


def _draw_speeds(axis: Any, speeds: tuple[Speed, ...]) -> None:
    if not speeds:
        _empty(axis, "no speeds were measured")
        return
    sizes, medians = [each.batch_size for each in speeds], [each.median for each in speeds]
    spread = ([each.median - each.low for each in speeds], [each.high - each.median for each in speeds])
    axis.errorbar(sizes, medians, yerr=spread, marker="o", capsize=3, label="examples per second")
    axis.axhline(FAST * max(medians), color="grey", linestyle=":", label=f"{FAST:.0%} of the fastest")
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("batch size, examples")
    axis.set_ylabel("examples per second")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _draw_rates(axis: Any, rates: Rates | None) -> None:
    if rates is None or not rates.curve:
        _empty(axis, "no range test was made")
        return
    axis.plot([lr for lr, _ in rates.curve], [loss for _, loss in rates.curve], label="smoothed loss")
    for number, (name, lr) in enumerate(rates.suggestions.items()):
        axis.axvline(lr, color=f"C{number + 1}", linestyle=":", label=f"{name}: {lr:.3g}")
    shown = [each for each in rates.trials if math.isfinite(each.loss)]
    axis.plot([each.lr for each in shown], [each.loss for each in shown], marker="o", color="black", label="short trainings")
    if rates.diverged_at is not None:
        axis.axvline(rates.diverged_at, color="red", label="diverged")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(f"learning rate, at B = {rates.batch_size}")
    axis.set_ylabel("training loss")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _empty(axis: Any, said: str) -> None:
    axis.set_axis_off()
    axis.text(0.5, 0.5, said, ha="center", transform=axis.transAxes)
