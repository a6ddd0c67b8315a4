"""The figure of the loss along the line between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw_line"]


def draw_line(points: Sequence[tuple[float, float]], names: tuple[str, str], path: Path) -> None:
    """Draw f((1 - t) a + t b) over t, and write the figure as PNG.

    Args:
        points: (t, loss).
        names: of a and b.
        path: the PNG file, replaced atomically.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places, losses = [t for t, _ in points], [loss for _, loss in points]
    axes.plot(places, losses, color="C0")
    for t, loss in points:
        if t in (0.0, 1.0):
            axes.plot([t], [loss], "o", color="C1")
            axes.annotate(f"{'a' if t == 0 else 'b'}: {loss:.3g}", (t, loss), textcoords="offset points", xytext=(-8, 8), ha="right")
    finite = [loss for loss in losses if math.isfinite(loss)]
    if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
        axes.set_yscale("log")
    axes.set_xlabel("t: weights (1 - t) a + t b")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    figure.suptitle(f"a = {names[0]}\nb = {names[1]}", fontsize=9, parse_math=False)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)
