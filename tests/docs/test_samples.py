"""The output that a page shows below a command is what the command prints; `make docs` renews it."""

from __future__ import annotations

import pytest

from docs.make_samples import PAGES, agree, printed, samples
from tests.helpers.pages import blocks

SAMPLES = [sample for page in PAGES for sample in samples(page.read_text())]
QUICK = [(command, shown) for command, shown in SAMPLES if command.startswith("plan.py") or shown.startswith("error: ")]


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("command", "shown"),
    [pytest.param(*sample, id=sample[0], marks=() if sample in QUICK else pytest.mark.slow) for sample in SAMPLES],
)
def test_a_sample_is_what_is_printed(command: str, shown: str) -> None:
    """The output is the same to the letter, except for digits if the command trains."""
    now = printed(command)
    assert agree(command, shown, now), now


def test_every_console_block_is_a_sample() -> None:
    found = [content for page in PAGES for language, content in blocks(page) if language == "console"]
    assert [f"$ python {command}\n{shown}" for command, shown in SAMPLES] == found
    assert len(QUICK) >= 3


def test_what_differs_is_seen() -> None:
    assert agree("plan.py", "outputs/plan/2026-01-02_03-04-05-6/plan.csv\n", "outputs/plan/2027-11-12_13-14-15-678/plan.csv\n")
    assert not agree("plan.py", "29 240 updates\n", "29 241 updates\n")
    assert agree("train.py", "│ seconds │ 12.5 │\n", "│ seconds │ 2.5  │\n")
    assert not agree("train.py", "│ seconds │ 12.5 │\n", "│ minutes │ 12.5 │\n")
    assert not agree("train.py", "error: seed=1\n", "error: seed=2\n")
