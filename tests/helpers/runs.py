"""The files of runs, as train.py leaves them, without a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from noisescale.files import write_rows

__all__ = ["config_of", "leave_run"]

N = 64
STEPS = ("step", "epoch", "examples_seen", "lr", "effective_batch_size", "micro_batch_size", "accumulate_grad_batches", "g", "loss")


def config_of(words: Sequence[str], monitor: str = "val/acc", mode: str = "max") -> dict[str, Any]:
    """A composed config: some defaults, and the words."""
    config: dict[str, Any] = {
        "task": {"monitor": monitor, "mode": mode},
        "optimizer": {"lr": 0.1, "momentum": 0.9},
        "batch": {"_target_": "noisescale.plans.Fixed", "size": 8},
        "seed": 0,
        "threads": 1,
        "output_dir": "${hydra:runtime.output_dir}",
    }
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        node, (*above, last) = config, key.split(".")
        for part in above:
            node = node.setdefault(part, {})
        if not isinstance(node.get(last), dict):
            node[last] = yaml.safe_load(value)
    return config


def leave_run(
    folder: Path,
    words: Sequence[str] = (),
    status: str | None = "completed",
    epochs: int = 3,
    size: int = 8,
    final: float | None = 0.9,
    metric: str = "acc",
    options: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    commit: str = "a" * 40,
) -> Path:
    """Write the files of a run of `epochs` epochs of 64 examples with B = `size`, whose loss is 1/(1 + update).

    Args:
        folder: its folder.
        words: its overrides.
        status: that of results.json; None: it has none, as after a kill.
        epochs: how many it did.
        size: its batch size.
        final: `test/<metric>`, and half of it in epochs.csv; None: not tested.
        metric: the name of its metric.
        options: the option of each config group.
        config: its composed config; `config_of` the words, if that is left out.
        commit: the commit that began it.
    """
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text(yaml.safe_dump([*words]))
    (hydra / "config.yaml").write_text(yaml.safe_dump(config_of(words) if config is None else dict(config), sort_keys=False))
    (hydra / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": dict(options or {"batch": "small"})}}}))
    (folder / ".run.json").write_text(json.dumps({"status": "started", "words": [*words], "commit": commit}))
    updates = epochs * N // size
    rows = [
        dict(zip(STEPS, (k, k * size / N, k * size, 0.1, size, size, 1, 0.1 * (N / size - 1), 1 / (1 + k)), strict=True))
        for k in range(updates)
    ]
    write_rows(folder / "steps.csv", STEPS, rows, durable=False)
    tags = {"train/loss": 1.0, "val/loss": 2.0, f"val/{metric}": (final or 0) / 2}
    table = [
        {"epoch": e, "updates": e * N // size, "examples_seen": e * N, "seconds": 0.5}
        | {tag: value if tag.endswith(metric) else value / e for tag, value in tags.items()}
        for e in range(1, epochs + 1)
    ]
    write_rows(folder / "epochs.csv", list(table[0]), table, durable=False)
    if status is not None:
        seed = next((int(word[5:]) for word in words if word.startswith("seed=")), 0)
        tested = {} if final is None else {"test/loss": 0.3, f"test/{metric}": final}
        results = {**tested, "updates": updates, "seconds": 2.0, "status": status, "reason": "why", "seed": seed, "commit": commit}
        (folder / "results.json").write_text(json.dumps(results))
    return folder
