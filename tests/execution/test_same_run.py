"""A run can be resumed only with the choices that it was saved with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from noisescale.callbacks import BatchSizeScheduler, SameRun
from noisescale.errors import ConfigError
from noisescale.plans import strategies as batching
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.mark.parametrize(("key", "now"), [("seed", 1), ("optimizer.lr", 0.5), ("optimizer.nesterov", True)])
def test_a_run_resumed_with_another_choice_is_refused(tmp_path: Path, key: str, now: object) -> None:
    choices: dict[str, Any] = {"seed": 0, "optimizer.lr": 0.1}
    path = tmp_path / "a.ckpt"
    fit(Plain(network()), BatchSizeScheduler(batching.Full()), SameRun(choices)).save_checkpoint(path)
    assert torch.load(path, weights_only=True)["callbacks"]["SameRun"] == {"choices": choices}
    reason = f"the checkpoint was trained with {key}={choices[key]}" if key in choices else "is not a key of the checkpoint"
    with pytest.raises(ConfigError, match=f"{key}={now}: {reason}"):
        fit(Plain(network()), BatchSizeScheduler(batching.Full()), SameRun({**choices, key: now}), ckpt_path=path)
    fit(Plain(network()), BatchSizeScheduler(batching.Full()), SameRun(choices), ckpt_path=path, max_epochs=4)


class Remembers(Plain):
    """A module that has something of its own to load."""

    loaded = 0

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded += 1


def test_the_choices_are_compared_before_the_weights_are_loaded(tmp_path: Path) -> None:
    """Otherwise the error is torch's, about the shapes. The module keeps its own hook."""

    def trained(width: int, **options: Any) -> tuple[Remembers, Callable[[], pl.Trainer]]:
        module = Remembers(nn.Sequential(nn.Linear(5, width), nn.Linear(width, 2)).double())
        return module, lambda: fit(module, BatchSizeScheduler(batching.Full()), SameRun({"module.width": width}), **options)

    path = tmp_path / "a.ckpt"
    trained(4)[1]().save_checkpoint(path)
    other, train = trained(8, ckpt_path=path)
    with pytest.raises(ConfigError, match=r"module\.width=8: the checkpoint was trained with module\.width=4; resume with the same"):
        train()
    same, train = trained(4, ckpt_path=path, max_epochs=4)
    train()
    assert (other.loaded, same.loaded) == (0, 1)
    assert all("on_load_checkpoint" not in vars(module) for module in (other, same))
