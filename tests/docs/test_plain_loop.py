"""The loop of docs/plain-loop.md trains as the callback does, and the lines about resuming resume it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from noisescale.callbacks import BatchSizeScheduler
from noisescale.plans import Dual
from noisescale.schedules import Cosine
from tests.helpers.pages import blocks
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.repository import REPOSITORY
from tests.helpers.rounding import GRADIENT_ROUNDINGS, assert_equal_to_rounding
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]

LOOP, TOKENS, RESUMING = (content for language, content in blocks(REPOSITORY / "docs" / "plain-loop.md") if language == "python")
# Smaller batches and fewer epochs than on the page, whose sizes are meant for a real data set.
SMALL = LOOP.replace("size=64", "size=7").replace("30", "3").replace("128", "4")
SETTING_UP = SMALL[: SMALL.index("for epoch")]


class Pairs(Subset[Any]):
    """(x, y) of the regression data."""

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        x, y, _ = self.dataset[index]
        return x, y

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        return [self[index] for index in indices]


class Labelled(Pairs):
    """(x, label), where a third of the labels are -100, which cross-entropy ignores."""

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        x, y, number = self.dataset[index]
        return x, torch.tensor(-100 if number % 3 == 0 else int(y[0] > 0))


def names() -> dict[str, Any]:
    """What a reader of the page has."""
    return {"my_data": Pairs(Regression(), range(N)), "my_net": network(dropout=0.3), "my_loss": nn.functional.mse_loss}


def labelled() -> dict[str, Any]:
    """The same with a mean over the labels that are not ignored."""
    loss = nn.functional.cross_entropy
    return {"my_data": Labelled(Regression(), range(N)), "my_net": network(), "my_loss": loss, "my_sum": partial(loss, reduction="sum")}


def trained(scope: dict[str, Any]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in scope["my_net"].parameters()])


def test_the_loop_trains_as_the_callback_does() -> None:
    after_imports = LOOP[LOOP.index("plan = ") :]
    assert len(after_imports.splitlines()) <= 11
    scope = names()
    exec(SMALL, scope)
    plan = scope["plan"]
    assert {update.accumulate_grad_batches for update in plan} == {1, 2, 3}
    module = Plain(network(dropout=0.3), lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    fit(module, BatchSizeScheduler(Dual(size=7), Cosine(T_max=3), max_micro_batch_size=4, seed=0))
    assert_equal_to_rounding(trained(scope), weights(module), plan.total_updates() * GRADIENT_ROUNDINGS)


def test_the_loop_for_a_mean_over_tokens_trains_as_whole_batches_do() -> None:
    pieces, whole, naive = (labelled(), labelled(), labelled())
    exec(SETTING_UP + TOKENS, pieces)
    exec(SMALL.replace("max_micro_batch_size=4", "max_micro_batch_size=None"), whole)  # a mean over the terms of each whole batch
    exec(SMALL, naive)
    assert {update.accumulate_grad_batches for update in whole["plan"]} == {1}
    roundings = whole["plan"].total_updates() * GRADIENT_ROUNDINGS
    assert_equal_to_rounding(trained(pieces), trained(whole), roundings)
    with pytest.raises(AssertionError):
        assert_equal_to_rounding(trained(naive), trained(whole), roundings)


def test_the_lines_about_resuming_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole, part, rest = names(), names(), names()
    exec(SMALL, whole)
    saving, loading = RESUMING.split("\n\n")
    exec(SMALL.replace("plan.epochs)", "2)"), part)
    exec(saving, part)
    before, loop = SMALL.split("for epoch")
    exec(f"{before}\n{loading}\nfor epoch{loop}", rest)
    assert torch.equal(trained(rest), trained(whole))
    assert not torch.equal(trained(part), trained(whole))
