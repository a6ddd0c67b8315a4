"""python -m benchmarks [part ...]: measure, print medians and ratios, and save them in benchmarks/results/bench.json."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.measure import measure, save, show

__all__ = ["main"]

# Part -> its number of rounds. Those ON_REQUEST run only if they are named: peers and launchers are slow, and throughput is for a GPU.
ROUNDS = {"steps": 9, "data_path": 5, "startup": 5, "sweep": 3, "compute": 5, "gradient_noise": 9, "callbacks": 9, "curvature": 5}
ON_REQUEST = {"peers": 5, "throughput": 5, "launchers": 3}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts named in `arguments`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="part",
        help=f"one or more of {', '.join([*ROUNDS, *ON_REQUEST])}; default: all except {' and '.join(ON_REQUEST)}",
    )
    parser.add_argument("--only", default="", metavar="WORD", help="run only comparisons that have WORD in their title")
    parser.add_argument("--rounds", type=int, help="number of rounds of every part")
    parser.add_argument("--quick", action="store_true", help="two rounds of little work, to see whether everything runs")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "bench.json", help="file for the results; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in ROUNDS | ON_REQUEST]:
        parser.error(f"{unknown[0]}: no such part; valid: {', '.join([*ROUNDS, *ON_REQUEST])}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: must be a whole number >= 1")
    progress, console = Console(stderr=True, soft_wrap=True, highlight=False), Console(width=None if sys.stdout.isatty() else 120)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _run(options, progress, console)


def _run(options: argparse.Namespace, progress: Console, console: Console) -> None:
    import torch

    torch.set_num_threads(1)
    for part in options.parts or ROUNDS:
        rounds = options.rounds or (2 if options.quick else (ROUNDS | ON_REQUEST)[part])
        comparisons = importlib.import_module(f"benchmarks.{part}").comparisons(options.quick)
        for name in ("pytorch_lightning", "lightning_fabric"):  # after its import, which sets the level
            logging.getLogger(name).setLevel(logging.ERROR)
        done = []
        for comparison in comparisons:
            if options.only in comparison.title:
                done.append(measure(comparison, rounds, progress))
                show(done[-1], console)
        if done:
            save(options.out, part, done, rounds, options.quick)
    console.print(f"saved in {options.out}", soft_wrap=True)


if __name__ == "__main__":
    main()
