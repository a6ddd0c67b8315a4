"""The learning rate of each parameter group: its base times the plan's factor. Groups may be added while training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.utilities import rank_zero_warn

from noisescale.execution.compatibility import untyped

__all__ = ["GroupRates"]

BASE = "initial_lr"
"""The key of a group's base. It is torch's own, so that it is saved and restored with the optimizer."""


class GroupRates:
    """lr = base * factor in every parameter group.

    The base of a group is its `initial_lr` if it has one, and otherwise the learning rate that it has at the start of training, or that it
    is added with. A group that is added when the factor is already below 1 therefore starts below the rate that it was added with.

    Lightning's `BaseFinetuning` and `BackboneFinetuning` compute rates from the current one of the first group, which the factor has
    changed. So what they write is the rate of that moment: base = rate / factor, and with `backbone_initial_ratio_lr=0.1` the backbone's
    rate is a tenth of the first group's, now and later.

    Not to be confused with torch's schedulers, which refuse a group that is added later, or decay it from the rate that it is added with.

    Args:
        relative: whether one of those callbacks is there.
    """

    def __init__(self, relative: bool = False) -> None:
        self.relative = relative
        self._written: list[Any] = []
        self._said = False
        self._groups: list[dict[str, Any]] = []

    @classmethod
    def of_trainer(cls, trainer: pl.Trainer) -> GroupRates:
        """The rates in a trainer, whose callbacks may be such."""
        return cls(relative=any(isinstance(callback, BaseFinetuning) for callback in untyped(trainer).callbacks))

    def start(self, optimizer: torch.optim.Optimizer, saved: Sequence[float] = ()) -> None:
        """Give each group a base that has none; in a run that is resumed they come with the optimizer's state.

        Args:
            optimizer: the optimizer.
            saved: the `bases` of the run that is resumed. Some strategies, such as FSDP2, restore only those keys of a group that it has
                already, and so leave out its base.
        """
        self._groups = groups = optimizer.param_groups
        for group, base in zip(groups, saved, strict=False):
            group.setdefault(BASE, base)
        factor = _factor(groups[0], groups[0]["lr"]) if BASE in groups[0] else 1.0
        for group in groups:
            group.setdefault(BASE, self._base(group, factor))
        self._written = [group["lr"] for group in groups]

    @property
    def bases(self) -> list[float]:
        """The base of each group; empty before the start."""
        return [float(group[BASE]) for group in self._groups if BASE in group]

    def write(self, optimizer: torch.optim.Optimizer, lr_factor: float) -> None:
        """Set the learning rate of each group for an update."""
        groups = optimizer.param_groups
        if self._written != [group["lr"] for group in groups]:  # a rate that is a tensor is the same tensor, so it is not read
            self._adopt(groups)
        for group in groups:
            _write(group, group[BASE] * lr_factor)
        self._written = [group["lr"] for group in groups]

    def _adopt(self, groups: list[dict[str, Any]]) -> None:
        """Take over what other code has done to the groups since the last update."""
        factor = _factor(groups[0], self._written[0])
        for number, group in enumerate(groups):
            if BASE not in group:
                group[BASE] = self._base(group, factor)
            elif number < len(self._written) and group["lr"] != self._written[number]:
                if self.relative and number > 0:
                    group[BASE] = self._base(group, factor)
                elif not self._said:
                    self._said = True
                    rank_zero_warn(
                        f"other code set the learning rate of parameter group {number} to {float(group['lr']):.4g}, but the plan sets it "
                        "at the start of each update; put it into the schedule, or give BatchSizeScheduler no schedule"
                    )

    def _base(self, group: dict[str, Any], factor: float) -> float:
        return float(group["lr"]) / factor if self.relative and factor > 0 else float(group["lr"])


def _factor(group: dict[str, Any], lr: Any) -> float:
    """The factor of the last update, from the rate of a group, so that a run that is resumed has the same one."""
    return float(lr) / float(group[BASE]) if float(group[BASE]) else 1.0


def _write(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
