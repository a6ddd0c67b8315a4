"""Draw docs/gradient_noise.png and print its numbers: B_simple over the first epochs of MNIST, and against the temperature, 3 seeds each.

Run from the repository (10 minutes on one core), then .venv/bin/python docs/draw_gradient_noise.py
    R=outputs/gradient_noise
    C="callbacks=[full,gns] callbacks.gradient_noise.every_n_updates=10 logger=csv-only threads=1 scheduler=constant"
    C="$C data=mnist data.root=<folder of MNIST/raw>"
    python train.py -m $C model=mlp batch.size=128 epochs=5 seed=0,1,2 hydra.sweep.dir=$R/mnist
    for each seed of 0, 1, 2:
        python train.py $C model=logistic optimizer=sgd optimizer.lr=0.2 seed=$seed epochs=8 hydra.run.dir=$R/plateau-$seed
        and from its weights, weights_from=$R/plateau-$seed/checkpoints/last.ckpt, with epochs=4 and every_n_updates=2:
            optimizer.lr=0.2, 0.05 and 0.0125, hydra.run.dir=$R/lr-$k-$seed for k = 1, 4 and 16
            batch.size=128 and 512 (0.2 / 32 lowered 4x and 16x), hydra.run.dir=$R/batch-$k-$seed

The temperature is lr/B. B_simple of a branch is the mean tr(Sigma) over the mean |G|^2 of its last three epochs, with Fieller's interval.
The network is logistic regression, which has a plateau; an mlp nearly fits all images, so that its |G|^2 vanishes at any temperature.
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from pathlib import Path

import matplotlib as mpl

from noisescale.measures.gradients import NoiseAverage, NoiseEstimate

mpl.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
BRANCHES = {"lr lowered": ("lr", (1, 4, 16)), "B raised": ("batch", (4, 16))}
START, AVERAGE = 50, 900  # McCandlish et al. 1812.06162, table 1: MNIST, B_simple at the start and on average
SEEDS = (0, 1, 2)


def rows_of(folder: Path) -> list[dict[str, float]]:
    """The rows of gradient_noise.csv."""
    with (folder / "gradient_noise.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def mean_of(rows: list[dict[str, float]]) -> NoiseAverage:
    """The average of measurements that all count the same."""
    average = NoiseAverage(1.0 - 1e-9)
    for row in rows:
        average = average.with_estimate(NoiseEstimate(row["grad_sq_norm"], row["grad_cov_trace"], row["size"]))
    return average


def main(runs: Path) -> None:
    """Draw both panels from the runs in a folder."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _over_epochs(left, runs)
    _over_temperatures(right, runs)
    figure.savefig(ROOT / "docs" / "gradient_noise.png", dpi=110)


def _over_epochs(axis: plt.Axes, runs: Path) -> None:
    found = [rows_of(runs / "mnist" / str(seed)) for seed in SEEDS]
    for seed, rows in zip(SEEDS, found, strict=True):
        shown = [row for row in rows if row["epoch"] > 0.04]
        line = axis.plot([row["epoch"] for row in shown], [row["gns"] for row in shown], label=f"seed {seed}")
        if seed == SEEDS[0]:
            low, high = ([min(max(row[name], 1.0), 1e5) for row in shown] for name in ("gns_low", "gns_high"))
            axis.fill_between([row["epoch"] for row in shown], low, high, color=line[0].get_color(), alpha=0.12, linewidth=0, label="95 %")
    for level, name in ((START, "start"), (AVERAGE, "average")):
        axis.axhline(level, color="k", linestyle=":", linewidth=1)
        axis.annotate(f"McCandlish et al., {name}: {level}", (5, level), ha="right", va="bottom", fontsize=8)
    axis.set(xlabel="epochs", ylabel="B_simple, examples", yscale="log", ylim=(20, 5e4), xlim=(0, 5))
    axis.set_title("MNIST, mlp, B = 128, constant rate", fontsize=10)
    axis.legend(fontsize=8, loc="upper left")
    for name, first, last in (
        ("first 0.1 epochs", 0.0, 0.1),
        ("0.9 to 1.1", 0.9, 1.1),
        ("last epoch", 4.0, 5.0),
        ("all 5 epochs", 0.0, 5.0),
    ):
        ratios = [mean_of([row for row in rows if first <= row["epoch"] <= last]).noise_scale for rows in found]
        medians = [
            statistics.median(row["gns"] for row in rows if first <= row["epoch"] <= last and not math.isnan(row["gns"])) for rows in found
        ]
        print(f"{name}: ratio of means {[round(each) for each in ratios]}, median of noise/gns {[round(each) for each in medians]}")


def _over_temperatures(axis: plt.Axes, runs: Path) -> None:
    for color, (name, (kind, factors)) in zip(("C0", "C1"), BRANCHES.items(), strict=True):
        for k in factors:
            found = [_last_epochs(rows_of(runs / f"{kind}-{k}-{seed}")) for seed in SEEDS]
            scales = [average.noise_scale for average in map(mean_of, found)]
            together = mean_of([row for rows in found for row in rows])
            low, high = together.interval()
            place = k if kind == "lr" else 1.12 * k
            axis.plot([place] * len(scales), scales, color=color, marker=".", linestyle="", alpha=0.6)
            error = [[together.noise_scale - low], [min(high, 1e5) - together.noise_scale]]
            label = name if k == factors[-1] else None
            axis.errorbar([place], [together.noise_scale], error, color=color, marker="o", markersize=6, capsize=3, label=label)
            print(f"{name} {k}x: {together.noise_scale:.0f} ({low:.0f} to {high:.0f}); seeds {[round(each, 0) for each in scales]}")
    start = mean_of([row for seed in SEEDS for row in _last_epochs(rows_of(runs / f"lr-1-{seed}"))]).noise_scale
    axis.plot([1, 16], [start, 16 * start], "k:", linewidth=1, label="in proportion")
    axis.set(xlabel="lr/B lowered by", ylabel="B_simple, examples", xscale="log", yscale="log", xticks=[1, 4, 16], ylim=(100, 3e4))
    axis.set_xticklabels(["1", "4x", "16x"])
    axis.minorticks_off()
    axis.set_title("MNIST, logistic, after 8 epochs at lr = 0.2, B = 32", fontsize=10)
    axis.legend(fontsize=8)


def _last_epochs(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Those of the last three epochs."""
    end = max(row["epoch"] for row in rows)
    return [row for row in rows if row["epoch"] > end - 3]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "outputs" / "gradient_noise")
