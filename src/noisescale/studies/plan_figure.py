"""The figure of a plan: learning rate, batch size and noise over epochs, together with its counterpart."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisescale.plans.plan import Plan
from noisescale.plans.strategies import Fixed
from noisescale.plans.summary import SHOWN, PlanSummary

__all__ = ["draw_plan"]

Curves = tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float]]


def draw_plan(summary: PlanSummary, title: str, path: Path) -> None:
    """Draw lr, B and the noise over epochs, of a plan and of its counterpart, and write the figure as PNG.

    Only full updates are drawn: the smaller windows at the ends of passes would appear as spikes.

    Args:
        summary: the summary of the plan.
        title: the title of the figure.
        path: the PNG file, replaced atomically.
    """
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True)
    members = [(f"this plan: {_count(summary.total)}", "C0", "-", _planned(summary))]
    if summary.other is not None:
        carrier = "the learning rate" if isinstance(summary.other.strategy, Fixed) else "the batch"
        label = f"the same noise carried by {carrier}: {_count(summary.other_updates)}"
        members.append((label, "C1", "--", _sampled(summary, summary.other)))
    names = ("learning rate", "batch size B, examples", f"noise, {summary.matched_noise_formula()}")
    for index, (axis, name) in enumerate(zip(axes, names, strict=True), 1):
        for label, color, style, curves in members:
            axis.step(curves[0], curves[index], where="post", color=color, linestyle=style, label=label)
        values = [value for member in members for value in member[-1][index]]
        positive = [value for value in values if value > 0]
        if index > 1 and positive and max(positive) > 8 * min(positive):
            axis.set_yscale("log")
            axis.set_ylim(bottom=max(min(positive), max(positive) / 1e5) / 1.5, top=max(positive) * 1.5)
        else:
            axis.set_ylim(bottom=0, top=1.08 * max(values) if max(values) > 0 else 1)
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("epochs: examples seen / N")
    axes[-1].set_xlim(0, summary.phases[-1].end)
    figure.suptitle(textwrap.fill(title, 100), fontsize=10, parse_math=False)  # a dollar sign is not a formula
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110)
    part.replace(path)


def _planned(summary: PlanSummary) -> Curves:
    end, shown = summary.phases[-1].end, summary.shown
    rates = [summary.rate(u) for u in shown]
    noises = [summary.matched_noise(rate, u.effective_batch_size) for rate, u in zip(rates, shown, strict=True)]
    sizes = [float(u.effective_batch_size) for u in shown]
    return [*(u.epoch for u in shown), end], [*rates, rates[-1]], [*sizes, sizes[-1]], [*noises, noises[-1]]


def _sampled(summary: PlanSummary, plan: Plan) -> Curves:
    """The counterpart's choices on a grid of epochs: enough to draw it, without computing its updates."""
    assert plan.epochs is not None
    clock = [plan.epochs * i / SHOWN for i in range(SHOWN)]
    choices = [plan.choice_at(epoch) for epoch in clock]
    rates = [summary.lr * choice.lr_factor for choice in choices]
    noises = [summary.matched_noise(rate, choice.size) for rate, choice in zip(rates, choices, strict=True)]
    return clock, rates, [float(choice.size) for choice in choices], noises


def _count(updates: int) -> str:
    return f"{updates:,} updates".replace(",", " ")
