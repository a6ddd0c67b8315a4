"""The front doors in this process, for the tests of this folder: the one place that knows where helpers and checks are."""

from __future__ import annotations

from omegaconf import DictConfig

from noisescale.app.composed import num_examples, read_config
from noisescale.plans import Plan
from tests.helpers.front_door import Outcome, plan, run
from tests.helpers.trainings import ignored

__all__ = ["Outcome", "ignored", "plan", "planned", "run"]


def planned(cfg: DictConfig) -> Plan:
    """What train.py checks and builds of a config before it reads data; of an image folder the files are counted."""
    return read_config(cfg).plan(num_examples(cfg))
