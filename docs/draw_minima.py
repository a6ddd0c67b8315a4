"""Draw minima.png, and print the table of curvature.md: the curvature at the ends of trainings with small and with large batches.

The trainings (about half an hour on one core of the machine of docs/curvature.md), each into a folder of its own, here outputs/minima:

    COMMON="data=mnist data.subset_size=6000 model=mlp model.widths=[512,512,512,512,512] model.norm=batch optimizer=adam
        callbacks=[full,sharpness] callbacks.best=null logger=csv-only threads=1 callbacks.sharpness.examples=1000
        callbacks.sharpness.chunk_size=1000 callbacks.sharpness.batches=16 callbacks.sharpness.subspace=null"
    python train.py -m $COMMON seed=0,1,2,3,4 epochs=10 batch.size=64,512 hydra.sweep.dir=outputs/minima/epochs
    python train.py -m $COMMON seed=0,1,2,3,4 epochs=80 batch.size=512 model.ghost_batch_size=64 hydra.sweep.dir=outputs/minima/updates
    python docs/draw_minima.py outputs/minima

The two rows of 100 directions in curvature.md are of the checkpoints of these runs: python curvature.py ckpt=... curvature.examples=1000
curvature.chunk_size=1000 curvature.full_space=false curvature.tolerance=null curvature.batches=0. line.png is of seed 0, with
curvature.span=[-1,2] curvature.points=61.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from noisescale.files import read_rows
from noisescale.studies.runs import Run, runs_in

__all__ = ["main"]

FIGURE = Path(__file__).with_name("minima.png")

QUANTITIES = {
    "keskar_phi_0.001": "phi, epsilon = 0.001",
    "keskar_phi_0.0005": "phi, epsilon = 0.0005",
    "lambda_max": "lambda_max",
    "batch_sharpness": "batch sharpness",
    "loss": "training loss",
    "test/acc": "test accuracy",
}


def arm_of(run: Run) -> str:
    """`B 64`; `B 512, ghost batches of 64` with its number of updates."""
    config = run.config or {}
    ghost = config["model"]["ghost_batch_size"]
    words = f"B {config['batch']['size']}" + ("" if ghost is None else f", ghost batches of {ghost}")
    return f"{words}, {run.results['updates']} updates"


def values_of(run: Run) -> dict[str, float]:
    """What the last measurement of a run has found, and its test accuracy."""
    last = read_rows(run.folder / "curvature.csv")[-1]
    return {name: float(last[name]) for name in QUANTITIES if name in last} | {"test/acc": float(run.results["test/acc"])}


def table(arms: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterable[str]:
    """Lines of a table in Markdown: mean and standard deviation over the seeds."""
    yield f"| quantity | {' | '.join(f'{arm} ({len(runs)} seeds)' for arm, runs in arms.items())} |"
    yield "| --- |" + " --- |" * len(arms)
    for name, words in QUANTITIES.items():
        cells = []
        for runs in arms.values():
            found = [run[name] for run in runs]
            spread = statistics.stdev(found) if len(found) > 1 else math.nan
            digits = 4 if name == "test/acc" else 3
            cells.append(f"{statistics.mean(found):.{digits}g} ± {spread:.2g}")
        yield f"| {words} | {' | '.join(cells)} |"


def draw(arms: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """A dot for each run, an axis for each quantity."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, words) in zip(figure.subplots(2, 3).flat, QUANTITIES.items(), strict=True):
        for place, (arm, runs) in enumerate(arms.items()):
            axes.plot([place] * len(runs), [run[name] for run in runs], "o", alpha=0.6, label=arm)
        if name != "test/acc":
            axes.set_yscale("log")
        axes.set_title(words, fontsize=10)
        axes.set_xticks([])
        axes.set_xlim(-0.5, len(arms) - 0.5)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=1, frameon=False)
    figure.savefig(path, format="png", dpi=110)


def main(folders: Sequence[str]) -> None:
    arms: dict[str, list[dict[str, float]]] = {}
    for run in runs_in(*map(Path, folders)):
        if run.state == "completed":
            arms.setdefault(arm_of(run), []).append(values_of(run))
    arms = dict(sorted(arms.items(), key=lambda arm: ("ghost" in arm[0], int(arm[0].split()[1].strip(",")))))
    print("\n".join(table(arms)))
    draw(arms, FIGURE)


if __name__ == "__main__":
    main(sys.argv[1:])
