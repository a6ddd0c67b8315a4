"""Draw docs/schedules.png from plans: every schedule and batch strategy of conf/, with its defaults, over 20 epochs of digits.

Run from the repository: .venv/bin/python docs/draw_schedules.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from hydra import compose, initialize_config_dir

mpl.use("agg")
from matplotlib import pyplot as plt

from noisescale.app.config import build
from noisescale.plans.duality import resolve_rule
from noisescale.plans.plan import Plan

ROOT = Path(__file__).resolve().parent.parent
N = 1293  # digits, after the validation split
EPOCHS = 20
CARRIERS = ("dual", "hybrid", "seesaw", "split")  # the batch follows the schedule
MEASURED = ("gns", "plateau")
"""Options that follow what is measured during a training, so that there is nothing to draw before it."""


def plan_of(*overrides: str) -> tuple[Plan, float]:
    """The plan that train.py would carry out, and the optimizer's learning rate."""
    cfg = compose("config", overrides=[f"epochs={EPOCHS}", "output_dir=.", *overrides])
    schedule = build(cfg, "warmup").before(build(cfg, "scheduler"), EPOCHS)
    return Plan(schedule, resolve_rule(build(cfg, "batch"), cfg.optimizer._target_), N, EPOCHS), cfg.optimizer.lr


def options(group: str) -> list[str]:
    """The options of a config group."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml"))


def main() -> None:
    """Draw and save the figure."""
    panels = [(f"scheduler={name}", [f"scheduler={name}"], "lr") for name in options("scheduler") if name not in ("none", *MEASURED)]
    panels += [
        (f"scheduler=cosine warmup={name}", ["scheduler=cosine", f"warmup={name}"], "lr") for name in options("warmup") if name != "none"
    ]
    for name in options("batch"):
        scheduler = "cosine" if name in CARRIERS else "constant"
        if name not in ("accumulate", *MEASURED):
            panels.append((f"scheduler={scheduler} batch={name}", [f"scheduler={scheduler}", f"batch={name}"], "B"))
    columns = 4
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.1 * rows), sharex=True, layout="constrained")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for axis, (title, overrides, quantity) in zip(axes.flat, panels, strict=False):
            plan, lr = plan_of(*overrides)
            updates = [u for u in plan if u.effective_batch_size == u.planned_batch_size]  # without smaller windows at the ends of passes
            values = [lr * u.lr_factor if quantity == "lr" else u.effective_batch_size for u in updates]
            axis.step([u.epoch for u in updates], values, where="post", color="C0" if quantity == "lr" else "C1", linewidth=1.2)
            axis.set_title(title, fontsize=9)
            axis.set_ylabel({"lr": "lr", "B": "B, examples"}[quantity], fontsize=8)
            axis.set_ylim(bottom=0)
            axis.set_xticks(range(0, EPOCHS + 1, 5))
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        axis.set_xlabel("epochs", fontsize=8)
        axis.tick_params(labelbottom=True)
    figure.savefig(ROOT / "docs" / "schedules.png", dpi=110)


if __name__ == "__main__":
    main()
