"""Which pictures a comparison has: as many arms in each as can be told apart, and a limit for all of them."""

from __future__ import annotations

from pathlib import Path

from noisescale.studies.compare import Arm, Comparison
from noisescale.studies.compare_figures import PER_PICTURE, draw_curves, draw_finals, draw_schedules
from noisescale.studies.compare_page import Picture
from noisescale.studies.headline import in_words

__all__ = ["draw", "drawn_arms"]

MOST = 3 * PER_PICTURE
"""How many arms are drawn at most; the table has all of them."""


def draw(comparison: Comparison, folder: Path) -> tuple[list[Picture], list[str]]:
    """Write the pictures of a comparison into `folder`; returns them, and a line if some arms are left out."""
    arms, notes = drawn_arms(comparison)
    parts = [arms[i : i + PER_PICTURE] for i in range(0, len(arms), PER_PICTURE)]
    pictures = []
    if comparison.metrics:
        words = f"{' and '.join(comparison.metrics)} of each seed as a point, and mean and standard deviation of each arm."
        pictures.append(Picture(folder / "finals.png", "Final values", words))
        draw_finals(arms, comparison.metrics, pictures[-1].path)
    if comparison.panels:
        what = ", ".join(map(in_words, comparison.panels))
        words = (
            f"{what} over epochs, updates and examples. Lines: means over the runs that count; bands: from the smallest to the largest. "
            "Thin lines: runs that do not count; a cross: it diverged; a ring: it did not reach its end, or has not yet."
        )
        for number, part in enumerate(parts, 1):
            pictures.append(Picture(folder / _name("curves", number, len(parts)), _heading("Curves", number, len(parts)), words))
            draw_curves(comparison, part, pictures[-1].path)
    for number, part in enumerate(parts, 1):
        words = "Learning rate, batch size and noise over epochs, as they were, without the smaller batches at the ends of passes."
        if any(member.scheduled(name)[0] for arm in part for member in arm.members for name in ("lr",)):
            name, heading = _name("schedules", number, len(parts)), _heading("Learning rate, batch size and noise", number, len(parts))
            pictures.append(Picture(folder / name, heading, words))
            draw_schedules(part, pictures[-1].path)
    return pictures, notes


def drawn_arms(comparison: Comparison, most: int = MOST) -> tuple[list[Arm], list[str]]:
    """(the arms to draw, a line if those are not all). If there are too many, the best are drawn, or else the first.

    What is best is known if all runs have the same metric, and their config says whether more or less of it is better.
    """
    arms = comparison.arms
    if len(arms) <= most:
        return arms, []
    better = {member.monitored for member in comparison.members}
    if len(comparison.metrics) == 1 and len(better) == 1:
        (metric,), ((tag, mode),) = comparison.metrics, better
        means = {arm.group.name: found.mean for arm in arms if (found := arm.final(metric)) is not None}
        if mode in ("max", "min") and in_words(tag).partition(" ")[2] == metric.partition(" ")[2] and len(means) >= most:
            best = set(sorted(means, key=lambda name: means[name], reverse=mode == "max")[:most])
            return [arm for arm in arms if arm.group.name in best], [f"{most} of {len(arms)} arms are drawn: those with the best {metric}"]
    return arms[:most], [f"{most} of {len(arms)} arms are drawn: the first ones"]


def _name(kind: str, number: int, of: int) -> str:
    return f"{kind}.png" if of == 1 else f"{kind}-{number}.png"


def _heading(words: str, number: int, of: int) -> str:
    return words if of == 1 else f"{words} ({number} of {of})"
