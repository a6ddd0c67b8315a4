"""Branches in words: percents that a person can read, verdicts, limits; and what a figure of one checkpoint and of several shows."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from noisescale.measures.branch_options import BranchOptions
from noisescale.measures.branches import PARTS
from noisescale.studies.branch_figure import draw_branches, draw_losses, draw_sizes
from noisescale.studies.branch_results import PointFound, found_at
from noisescale.studies.branch_table import print_point
from noisescale.studies.branch_words import ONLY_INSTABILITY, in_words, percent, percents
from noisescale.studies.branching import BranchRow, Point

OPTIONS = BranchOptions(seeds=3)
SPREAD = (0.99, 1.0, 1.01)


def found(ends: dict[int, tuple[float, ...]], start: float = 1.0, rule: str = "linear", epoch: float = 1.0) -> PointFound:
    """Branches of three seeds that end at these losses from epoch 1; inf where one diverged."""
    point = Point(0, 100, epoch, 6400, 32, 0.1, 4096, "SGD", start, 300.0, 1.0, 1)
    rows = [
        BranchRow(0, epoch, rule, size, 1.0, seed, 0.1, 4096 // size, 1.0, start, (loss,) * (PARTS if math.isfinite(loss) else 2))
        for size, losses in ends.items()
        for seed, loss in enumerate(losses)
    ]
    return found_at(point, rows, OPTIONS)


def spread(loss: float) -> tuple[float, ...]:
    return tuple(loss * each for each in SPREAD)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.003, 0.001, "-0.3 to +0.1 %"),
        (-0.0000011, 0.0000009, "-0.0001 to +0.0001 %"),
        (-0.12, 0.31, "-12 to +31 %"),
        (2.58, 19.5, "+258 % to > 10 x"),
        (485165.19, 1e9, "> 10 x"),
        (0.0, 0.0, "0 %"),
        (-0.001, 0.5, "0 to +50 %"),
        (-0.5, -0.499, "-50.0 to -49.9 %"),
        (math.expm1(-700.0), math.expm1(700.0), "-100 % to > 10 x"),
    ],
)
def test_an_interval_has_the_digits_that_it_needs(low: float, high: float, said: str) -> None:
    assert percents(low, high) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0 %"), (0.042, "+4 %"), (-0.0021, "-0.2 %"), (0.5, "+50 %"), (12.0, "> 10 x"), (-12.0, "< -10 x")]
)
def test_a_share_of_the_gain_in_words(value: float, said: str) -> None:
    assert percent(value) == said


def test_no_line_of_the_table_has_an_absurd_percent(capsys: pytest.CaptureFixture[str]) -> None:
    arms = {8: spread(0.1), 16: spread(0.1), 32: (0.1, 0.5, 0.1), 64: spread(300.0), 128: (0.1, math.inf, 0.1)}
    print_point(found(arms), OPTIONS)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "-0 " not in out
    assert not re.search(r"\d{5,} %", out)
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()[:1].isdigit()}
    assert rows["64"].split()[-5:] == ["x", ">", "10", "x", "worse"]
    assert rows["128"].endswith("1 of 3 diverged")
    assert "undecided" in rows["32"]
    assert "worse: more than 0.02 above 0.1, 20 % of it\n" in out
    print_point(found({8: spread(0.61), 16: (math.inf,) * 3}, start=0.66), OPTIONS)
    out = capsys.readouterr().out
    assert "worse: more than 0.025 above 0.61, 50 % of what the smallest batch gains\n" in out
    assert out.rstrip().endswith(" diverged")


def test_where_only_instability_can_show_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    still = found({8: spread(0.61), 16: spread(0.61)}, start=0.612)
    print_point(still, OPTIONS)
    assert ONLY_INSTABILITY in capsys.readouterr().out
    (line,) = in_words([still])
    assert ONLY_INSTABILITY in line
    (line,) = in_words([found({8: spread(0.61), 16: spread(0.61)}, start=0.9)])
    assert ONLY_INSTABILITY not in line


def test_the_difference_that_the_seeds_could_have_seen_is_said() -> None:
    (line,) = in_words([found({8: spread(0.1), 16: (0.1, 0.13, 0.1), 32: spread(9.0)})])
    assert "critical batch 8 to 32" in line
    assert "not decided from B = 16: 3 seeds show only what is 29 % away from the limit there" in line


def test_losses_below_0_are_compared_by_their_progress(capsys: pytest.CaptureFixture[str]) -> None:
    below = found({8: (-2.0, -2.1, -2.05), 16: (-2.0, -2.1, -2.05), 32: (0.1, 0.2, 0.1)})
    assert [each.compared.verdict for each in below.rules[0].sizes] == ["same", "same", "worse"]
    print_point(below, OPTIONS)
    assert "diverged" not in capsys.readouterr().out


# -- figures ------------------------------------------------------------------------------------------------------------------

ENDS = {8: spread(0.1), 32: spread(0.11), 128: spread(0.5)}


def labels(points: list[PointFound], draw: object) -> list[str]:
    axis = Figure().subplots()
    draw(axis, points)  # type: ignore[operator]
    legend = axis.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_a_legend_names_what_differs() -> None:
    one, other = found(ENDS), found(ENDS, epoch=4.0)
    assert sorted(labels([one], draw_losses)) == ["mean over seeds, 90 % interval", "worse above this"]
    assert sorted(labels([one, other], draw_losses)) == ["epoch 1", "epoch 4", "worse above this, each in its colour"]
    both = replace(one, rules=(*one.rules, *found(ENDS, rule="sqrt").rules))
    assert sorted(labels([both], draw_losses)) == ["lr linear in B", "lr sqrt in B", "worse above this, each in its colour"]
    assert "critical batch" in labels([one, other], draw_sizes)
    assert {"critical batch, lr linear in B", "critical batch, lr sqrt in B"} < {*labels([both, both], draw_sizes)}


def test_one_checkpoint_has_one_panel(tmp_path: Path) -> None:
    draw_branches([found(ENDS)], "one", tmp_path / "one.png")
    draw_branches([found(ENDS), found(ENDS, epoch=4.0)], "two", tmp_path / "two.png")
    widths = [int.from_bytes((tmp_path / name).read_bytes()[16:20], "big") for name in ("one.png", "two.png")]
    assert widths == [715, 1210]


def test_a_figure_holds_losses_that_nearly_diverged() -> None:
    """The upper end of an interval may be as far away as the mean, where both are beyond what is drawn."""
    far = found({8: spread(0.01), 32: spread(0.011), 128: spread(500.0)})
    assert labels([far], draw_losses)
