"""A study says nothing of Lightning's own, each line of ours once, and leaves Lightning's loggers as they were."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator

import pytest
import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader

from noisescale.execution import quiet
from noisescale.execution.quiet import is_ours, without_lightnings_lines
from noisescale.studies import branches, range_test
from tests.helpers.regression import Plain, Regression, network

LIGHTNING = "pytorch_lightning.utilities.rank_zero"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What a user sees of Lightning's log, at the level that Lightning itself has chosen."""
    shown, logger = io.StringIO(), logging.getLogger(LIGHTNING)
    handler, level = logging.StreamHandler(shown), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield shown
    logger.removeHandler(handler)
    logger.setLevel(level)


def levels() -> list[tuple[int, int]]:
    names = (LIGHTNING, "pytorch_lightning", "lightning_fabric", "lightning", "lightning_utilities")
    return [(logging.getLogger(name).level, len(logging.getLogger(name).filters)) for name in names]


def test_a_study_of_many_trainings_prints_nothing_of_lightnings(log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    before, filters = levels(), list(warnings.filters)
    data = DataLoader(Regression(), shuffle=True)
    module = Plain(network())
    found = branches(module, data, 8, seeds=2, at=[0.5], sizes=[4, 8], scheduler={"max_micro_batch_size": "auto"})
    range_test(module, data, 8, updates=20)
    assert len(found) == 1
    lines = log.getvalue().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("note: max_micro_batch_size=auto sets no limit on the CPU")
    assert capfd.readouterr().out == ""
    assert (levels(), warnings.filters) == (before, filters)
    pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert "GPU available" in log.getvalue(), "Lightning speaks again"


def test_inside_a_line_of_ours_is_shown_once_and_one_of_anyone_elses_never(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    with without_lightnings_lines(), without_lightnings_lines():
        rank_zero_info("a tip of Lightning's")
        monkeypatch.setattr(quiet, "is_ours", lambda record: True)
        for _ in range(3):
            rank_zero_info("note: a line of ours")
    assert log.getvalue() == "note: a line of ours\n"


def test_it_is_left_as_it_was_after_an_error(log: io.StringIO) -> None:
    before = levels()
    with pytest.raises(KeyboardInterrupt), without_lightnings_lines():
        raise KeyboardInterrupt
    assert levels() == before


@pytest.mark.parametrize("folder", ["site-packages/pytorch_lightning", "noisescale/.venv/lib/python3.12/site-packages/pytorch_lightning"])
def test_a_line_of_lightnings_is_not_ours_wherever_it_is_installed(folder: str) -> None:
    """Whoever has cloned this project has its name in the path of everything that is installed in it."""
    record = logging.LogRecord("x", logging.INFO, f"/home/someone/{folder}/trainer.py", 1, "a tip", (), None)
    assert not is_ours(record)
    assert is_ours(logging.LogRecord("x", logging.INFO, quiet.__file__, 1, "note", (), None))
