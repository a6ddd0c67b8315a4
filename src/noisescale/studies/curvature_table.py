"""What was measured of the curvature at a checkpoint, as a table, with what has been objected to each number."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from noisescale.plans.curvature_options import CurvatureOptions

__all__ = ["OBJECTIONS", "Checkpoint", "print_curvature"]

OBJECTIONS = (
    "Dinh et al. 1703.04933: the same function can be written with other weights, where all of these numbers are as large as you like;",
    "Goyal et al. 1706.02677, Shallue et al. 1811.03600: with a tuned learning rate, larger batches need not generalise worse;",
    "Hoffer et al. 1705.08741: much of the difference goes away with as many updates and ghost batch norm.",
)
"""What stands beside every number."""


WIDTH = 140
"""Columns of a table that goes to a file or a pipe."""

_MODES = {
    "eval": "eval mode: the running statistics of batch norm, no dropout",
    "train": "train mode: the statistics of {} examples at a time for batch norm, the same dropout masks each time",
}


@dataclass(frozen=True)
class Checkpoint:
    """What is known of the training at a checkpoint.

    Args:
        name: how the user knows it.
        update: how many updates were done.
        optimizer: the name of its class.
        lr, momentum: of its first parameter group; None if the rate is not known.
    """

    name: str
    update: int
    optimizer: str
    lr: float | None
    momentum: float


def print_curvature(found: Mapping[str, float], options: CurvatureOptions, checkpoint: Checkpoint, examples: str, parameters: int) -> None:
    """Print the table of `found`, the values of `sharpness.curvature_of`, and the objections below it."""
    print(f"{checkpoint.name}: update {checkpoint.update}, {parameters} parameters; loss {found['loss']:.4g} on {examples}")
    print(_MODES[options.mode].format(options.chunk_size))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("quantity", "value", "how it was measured"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for row in _rows(found, options, checkpoint):
        table.add_row(*row)
    if sys.stdout.isatty():
        Console().print(table)
    else:
        console = Console(width=WIDTH, file=StringIO())
        console.print(table)
        assert isinstance(console.file, StringIO)
        print("\n".join(filter(None, (line.rstrip() for line in console.file.getvalue().splitlines()))))
    print("\n".join(OBJECTIONS))


def _rows(found: Mapping[str, float], options: CurvatureOptions, checkpoint: Checkpoint) -> list[tuple[str, str, str]]:
    rows = []
    if "lambda_max" in found:
        top = found["lambda_max"]
        stable = f"; 2/lambda_max = {2 / top:.3g}" if top > 0 else ""
        rows.append(("lambda_max", _number(top), f"to {max(found['lambda_max_residual'], 1e-9):.0e} of it{stable}"))
    if "batch_sharpness" in found:
        error, means = (_number(found[f"batch_sharpness_{key}"]) for key in ("error", "of_means"))
        name = f"batch sharpness, B = {found['batch_size']:.0f}"
        rows.append((name, _number(found["batch_sharpness"]), f"± {error}; of the means {means}{_edge(checkpoint)}"))
    for radius, dimensions in options.spaces:
        key = f"keskar_phi_{radius:g}" + ("" if dimensions is None else f"_in_{dimensions}")
        where = "in all parameters" if dimensions is None else f"in {dimensions} random directions"
        rows.append((f"phi, epsilon = {radius:g}", _number(found[key]), f"% of 1 + f, {where}, {options.iterations} iterations"))
    return rows


def _edge(checkpoint: Checkpoint) -> str:
    """Where SGD keeps batch sharpness at a constant rate: 2/lr; with momentum lower for small batches, and higher for large ones."""
    lr, m = checkpoint.lr, checkpoint.momentum
    if not lr or checkpoint.optimizer != "SGD":
        return ""
    return f"; 2/lr = {2 / lr:.3g}" if not m else f"; 2(1-m)/lr to 2(1+m)/lr = {2 * (1 - m) / lr:.3g} to {2 * (1 + m) / lr:.3g}"


def _number(value: Any) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
