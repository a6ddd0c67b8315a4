"""Draw docs/bs_scheduler.png: the noise of a cosine schedule, carried by the batch: batch=dual and PyPI's bs-scheduler.

Run from the repository: pip install -c constraints.txt -e .[template,peers], then .venv/bin/python docs/draw_bs_scheduler.py
The setting is Smith et al.'s WRN on CIFAR-10: N = 50 000, 200 epochs, lr 0.1, B from 128 to N/10; nothing is trained. bs-scheduler steps
once per epoch, and its learning rate is constant. Neither is wrong: bs-scheduler promises a cosine in B, not the noise of a cosine in the
learning rate.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import torch
from bs_scheduler import CosineAnnealingBS
from torch.utils.data import DataLoader, TensorDataset

mpl.use("agg")
from matplotlib import pyplot as plt

from noisescale.plans.duality import Dual
from noisescale.plans.noise import sgd_noise_scale
from noisescale.plans.plan import Plan
from noisescale.plans.strategies import Fixed
from noisescale.schedules import Cosine

N, EPOCHS, LR, B0 = 50_000, 200, 0.1, 128
CAP = N // 10


def theirs() -> list[int]:
    """B of each epoch as bs-scheduler sets it in a DataLoader: from B0 to the cap, with one step per epoch."""
    loader = DataLoader(TensorDataset(torch.zeros(N, 1)), batch_size=B0, shuffle=True)
    scheduler = CosineAnnealingBS(loader, total_iters=EPOCHS, base_batch_size=B0, max_batch_size=CAP)
    sizes = []
    for _ in range(EPOCHS):
        sizes.append(scheduler.batch_size)
        scheduler.step()
    return sizes


def main() -> None:
    """Draw and save the figure, and print the numbers."""
    cosine = Cosine(T_max=EPOCHS)
    target = [LR * cosine(t) * (N / B0 - 1) for t in range(EPOCHS)]
    plan = Plan(cosine, Dual(B0, rule="sgd"), N, EPOCHS)
    ours = [u for u in plan if u.epoch == int(u.epoch)]
    assert len(ours) == EPOCHS
    sizes = theirs()
    noise = [sgd_noise_scale(LR, N, size) for size in sizes]
    runs = {
        "batch=dual": (range(EPOCHS), [float(u.effective_batch_size) for u in ours], [plan.noise(u, LR) for u in ours], "C0", "-"),
        f"bs-scheduler {version('bs-scheduler')}: CosineAnnealingBS, lr constant": (
            range(EPOCHS),
            [float(size) for size in sizes],
            noise,
            "C3",
            "-",
        ),
        "learning rate: cosine, B = 128": (range(EPOCHS), [float(B0)] * EPOCHS, target, "C1", "--"),
    }
    figure, axes = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for label, (clock, batch, g, color, style) in runs.items():
        relative = [a / b for a, b in zip(g, target, strict=True)]
        for axis, values in zip(axes, (batch, g, relative), strict=True):
            axis.plot(clock, values, color=color, linestyle=style, label=label, linewidth=1.6)
    for axis, name in zip(axes, ("batch size B, examples", "noise scale g = lr (N/B - 1)", "g / g of the learning-rate run"), strict=True):
        axis.set_yscale("log")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_yticks([128, 256, 512, 1024, 2048, 5000], ["128", "256", "512", "1024", "2048", "5000"])
    axes[0].minorticks_off()
    axes[1].set_ylim(bottom=1e-2)
    axes[2].set_ylim(0.05, 20)
    axes[2].set_xlabel("epochs: examples seen / N")
    axes[2].set_xlim(0, EPOCHS)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(Path(__file__).with_name("bs_scheduler.png"), dpi=110)
    theirs_updates = sum(-(-N // size) for size in sizes)
    print(f"updates: rate {Plan(cosine, Fixed(B0), N, EPOCHS).total_updates()}, dual {plan.total_updates()}, bs-scheduler {theirs_updates}")
    for t in (0, 50, 100, 150, 190):
        relative = [g / target[t] for g in (plan.noise(ours[t], LR), noise[t])]
        print(f"epoch {t}: B {ours[t].effective_batch_size} and {sizes[t]}; g / target {relative[0]:.3f} and {relative[1]:.3f}")


if __name__ == "__main__":
    main()
