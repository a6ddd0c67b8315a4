"""The front doors in this process, for the tests of this folder: the one place that knows where helpers and checks are."""

from __future__ import annotations

from omegaconf import DictConfig

from noisescale.app.composed import num_examples, plan_of, schedule_and_strategy
from noisescale.plans import Plan
from tests.app.test_preview import plan
from tests.app.test_train import Outcome, run
from tests.helpers.cases import ignored

__all__ = ["Outcome", "ignored", "plan", "planned", "run"]


def planned(cfg: DictConfig) -> Plan:
    """What train.py checks and builds of a config before it reads data; of an image folder the files are counted."""
    return plan_of(cfg, *schedule_and_strategy(cfg), num_examples(cfg))
