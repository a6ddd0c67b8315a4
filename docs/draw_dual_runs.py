"""Draw docs/dual_runs.png and print its table: a cosine carried by the learning rate and by the batch, and the controls, 5 seeds each.

Run from the repository (30 minutes on one core of a busy machine), then .venv/bin/python docs/draw_dual_runs.py
    S="callbacks=light logger=csv-only threads=1 seed=0,1,2,3,4"
    M="data=mnist data.root=<folder of MNIST/raw>"
    python train.py -m $S epochs=20 batch=small,dual hydra.sweep.dir=outputs/dual_runs/digits
    python train.py -m $S epochs=20 scheduler=constant hydra.sweep.dir=outputs/dual_runs/digits_constant
    python train.py -m $S epochs=80 batch.size=128 hydra.sweep.dir=outputs/dual_runs/digits_quarter_noise
    python train.py -m $S epochs=10 batch.size=16 hydra.sweep.dir=outputs/dual_runs/digits_double_noise
    python train.py -m $S epochs=80 optimizer.lr=0.0125 hydra.sweep.dir=outputs/dual_runs/digits_quarter_rate
    python train.py -m $S $M epochs=10 batch=small,dual hydra.sweep.dir=outputs/dual_runs/mnist
    python train.py -m $S $M epochs=10 scheduler=constant hydra.sweep.dir=outputs/dual_runs/mnist_constant
    python train.py -m $S $M epochs=40 batch.size=128 hydra.sweep.dir=outputs/dual_runs/mnist_quarter_noise
    python train.py -m $S $M epochs=5 batch.size=16 hydra.sweep.dir=outputs/dual_runs/mnist_double_noise

For the same seed, all arms share the initial weights, and those of 32 examples per update also the order of the examples. Every update has
exactly B examples (batch.last=carry), so batch.match_last changes nothing in any arm.

At a fixed number of epochs the sum of the learning rates, about lr N/B times the epochs, is proportional to g, so noise and distance cannot
be told apart. In `quarter_noise` and `double_noise` B and the epochs change by the same factor, so the number of updates and the learning
rate of each of them stay, and g does not. `quarter_rate` has the same sum and a quarter of g by another route.

The margins for equivalence in test accuracy were set before the runs: 1 point on digits (360 test images, one standard error is about .6),
0.3 points on MNIST (10 000, about .13).
"""

from __future__ import annotations

import csv
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from omegaconf import OmegaConf
from scipy import stats

mpl.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
FIRST = "cosine, B = 32"
DUAL = "cosine, batch=dual"
CONSTANT = "constant, B = 32 (control)"
QUARTER = "cosine, B = 128, four times the epochs (control)"
COLORS = {FIRST: "C1", DUAL: "C0", CONSTANT: "C7", QUARTER: "C2"}
CONTROLS = {
    "constant": CONSTANT,
    "quarter_noise": QUARTER,
    "double_noise": "cosine, B = 16, half the epochs (control)",
    "quarter_rate": "cosine, lr / 4, four times the epochs (control)",
}
MARGINS = {"digits": 1.0, "mnist": 0.3}
Run = tuple[dict[str, float], list[dict[str, float]]]


def arms_of(folder: Path, name: str) -> dict[str, dict[int, Run]]:
    """Arm -> seed -> (results, rows of epochs.csv), of those that have been run."""
    found: dict[str, dict[int, Run]] = {FIRST: {}, DUAL: {}}
    for path in sorted(folder.glob(f"{name}*/*/results.json")):
        choices = OmegaConf.load(path.parent / ".hydra" / "hydra.yaml").hydra.runtime.choices
        control = path.parent.parent.name.removeprefix(name).lstrip("_")
        label = CONTROLS[control] if control else DUAL if choices.batch == "dual" else FIRST
        results = json.loads(path.read_text())
        with (path.parent / "steps.csv").open() as file:
            results["sum of lr"] = sum(float(row["lr"]) for row in csv.DictReader(file))
        with (path.parent / "epochs.csv").open() as file:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        found.setdefault(label, {})[results["seed"]] = (results, rows)
    return found


def interval(differences: Sequence[float], confidence: float) -> tuple[float, float]:
    """Confidence interval of the mean of paired differences, by Student's t."""
    half = stats.t.ppf((1 + confidence) / 2, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences) - half, statistics.mean(differences) + half


def report(name: str, arms: dict[str, dict[int, Run]]) -> None:
    """Print a line per arm, and the paired difference between each arm and the first."""
    first = arms[FIRST]
    for label, runs in arms.items():
        accuracies = [100 * run[0]["test/acc"] for run in runs.values()]
        losses = [run[0]["train/loss"] for run in runs.values()]
        updates = {int(run[0]["updates"]) for run in runs.values()}
        print(
            f"{name}: {label}: n {len(runs)}, {updates} updates, sum of lr {next(iter(runs.values()))[0]['sum of lr']:.2f}, "
            f"test {statistics.mean(accuracies):.2f} +- {statistics.stdev(accuracies):.2f} %, "
            f"last train/loss {statistics.mean(losses):.5f} +- {statistics.stdev(losses):.5f}"
        )
        if runs is not first:
            points = [100 * (runs[seed][0]["test/acc"] - first[seed][0]["test/acc"]) for seed in runs]
            logs = [math.log(runs[seed][0]["train/loss"] / first[seed][0]["train/loss"]) for seed in runs]
            low, high = interval(points, 0.9)
            margin = MARGINS[name]
            verdict = "equivalent" if -margin < low and high < margin else "NOT shown to be equivalent"
            words = f"90 % interval {low:+.2f} to {high:+.2f}: {verdict} within {margin}"
            print(f"    test - first: {statistics.mean(points):+.2f} points, {words}")
            ratios = [math.exp(bound) for bound in interval(logs, 0.95)]
            print(
                f"    last train/loss over first: {math.exp(statistics.mean(logs)):.2f}, 95 % interval {ratios[0]:.2f} to {ratios[1]:.2f}"
            )


def main(folder: Path) -> None:
    """Draw and save the figure."""
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    panels = (("epoch", "train/loss"), ("updates", "train/loss"), ("updates", "val/acc"))
    for row, name in zip(axes, MARGINS, strict=True):
        arms = arms_of(folder, name)
        report(name, arms)
        for axis, (clock, value) in zip(row, panels, strict=True):
            for label, color in COLORS.items():
                if label == QUARTER and clock == "epoch":
                    continue  # four times as long as the axis
                tables = [rows for _, rows in arms[label].values()]
                x = [line[clock] for line in tables[0]]
                columns = [[table[i][value] for table in tables] for i in range(len(x))]
                axis.plot(x, [statistics.mean(column) for column in columns], color=color, label=label, linewidth=1.6)
                axis.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], color=color, alpha=0.2, linewidth=0)
            axis.set_xlabel("epochs" if clock == "epoch" else "updates")
            axis.set_ylabel(value)
            axis.grid(alpha=0.3)
            if value == "train/loss":
                axis.set_yscale("log")
            else:
                axis.set_ylim(bottom=0.93)
            axis.set_title(f"{name}, {value} over {clock if clock == 'updates' else 'epochs'}", fontsize=10)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(Path(__file__).with_name("dual_runs.png"), dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "outputs" / "dual_runs")
