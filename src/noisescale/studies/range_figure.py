"""The figure of a range test: the loss over the learning rate, and the suggestions."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisescale.measures.range_test import smoothed
from noisescale.studies.range_study import RangeFound

__all__ = ["draw_range"]


def draw_range(found: RangeFound, title: str, path: Path, ramp: str) -> None:
    """Draw the losses, the smoothed loss, the named suggestions and the bounds for a cycle, and write the figure as PNG, atomically."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    whole = next((k for k, loss in enumerate(found.losses) if not math.isfinite(loss)), len(found.losses))
    rates, losses = found.rates[:whole], found.losses[:whole]
    if whole:
        curve = smoothed(losses, found.width)
        axis.plot(rates, losses, color="C0", alpha=0.35, linewidth=0.8, label="loss of a batch")
        axis.plot(rates, curve, color="C0", linewidth=2, label="smoothed")
        low, high = min(curve), max(curve[: max(1, curve.index(min(curve)) + 1)])
        axis.set_ylim(max(0.0, low - 0.1 * (high - low)) if low >= 0 else None, high + 0.5 * (high - low) if high > low else None)
    for number, (name, rate) in enumerate(found.suggestions.named().items(), 1):
        if math.isfinite(rate):
            axis.axvline(rate, color=f"C{number}", linestyle="--", label=f"{name}: {rate:.3g}")
    bottom, top = found.suggestions.cyclic
    if math.isfinite(bottom):
        axis.axvspan(bottom, top, color="grey", alpha=0.15, label=f"for cyclic: {bottom:.3g} to {top:.3g}")
    if ramp == "exponential":
        axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel(f"training loss, B = {found.size}")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    figure.suptitle(textwrap.fill(title, 100), fontsize=10, parse_math=False)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)
