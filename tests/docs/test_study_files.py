"""docs/study-files.md names every column and every key that the studies write, and no other."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from noisescale.measures.sharpness import columns_of
from noisescale.plans.curvature_options import CurvatureOptions
from noisescale.studies.branching import COLUMNS, Point
from tests.helpers.repository import REPOSITORY


def table(of: str) -> list[str]:
    """The names in the first cells of a table of the page, `loss_1` to `loss_8` written out."""
    page = (REPOSITORY / "docs" / "study-files.md").read_text(encoding="utf-8")
    rows = page.split(f"of `{of}` |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [row.split(" | ")[0].replace("`loss_1` to `loss_8`", " ".join(f"`loss_{part}`" for part in range(1, 9))) for row in rows]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("points.csv", [each.name for each in fields(Point)]),
        ("branches.csv", list(COLUMNS)),
        ("range_test.csv", ["lr", "loss"]),
        ("line.csv", ["t", "loss"]),
    ],
)
def test_every_column_is_on_the_page(file: str, columns: list[str]) -> None:
    assert table(file) == columns


def test_every_key_of_curvature_is_on_the_page() -> None:
    about = ["ckpt", "update", "lr", "examples", "num_examples", "parameters", "mode", "seed", "complete"]
    options = CurvatureOptions(radii=(0.001,), subspace=100)
    assert table("curvature.json") == [*about, *columns_of(options)]
