"""What cannot be combined with a plan is refused, and what steps or accumulates by itself is noticed."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler
from noisescale.errors import ConfigError
from noisescale.plans import strategies as batching
from tests.helpers.regression import N, Plain, Regression, loader, network
from tests.helpers.trainings import fit, ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__(network())
        self.automatic_optimization = False


class WithLoader(Plain):
    batch_size = 7

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Regression(), batch_size=self.batch_size)


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(torch.zeros(4, 5))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"module": Manual()}, "automatic_optimization=False: a plan needs automatic optimization"),
        ({"callbacks": [GradientAccumulationScheduler({0: 2})]}, "callbacks=GradientAccumulationScheduler: "),
        ({"module": WithLoader(network()), "callbacks": [BatchSizeFinder()]}, "callbacks=BatchSizeFinder: "),
        ({"callbacks": [LearningRateFinder()]}, "callbacks=LearningRateFinder: "),
        (
            {"module": Plain(network(norm=True)), "callbacks": [StochasticWeightAveraging(0.1)]},
            "steps the optimizer while it updates batch norm",
        ),
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "callbacks=StochasticWeightAveraging: sets the learning rate"),
        ({"accumulate_grad_batches": 4}, "accumulate_grad_batches=4: is decided by the plan"),
        ({"overfit_batches": 1}, "overfit_batches=1: "),
        ({"limit_train_batches": 0.5}, "limit_train_batches=0.5: must be a whole number of updates"),
        ({"loader": loader(Stream())}, "train_dataloader=Stream: an IterableDataset cannot be cut"),
        ({"loader": loader(sampler=range(N))}, "train_dataloader=range: has a sampler of its own"),
        ({"loader": loader(batch_size=None)}, "train_dataloader=batch_size=None: must collate"),
        ({"loader": [loader(), loader()]}, "train_dataloader=list: must be one torch DataLoader"),
        ({"size": N + 1}, f"size={N + 1}: must be at most N = {N}"),
    ],
)
def test_what_cannot_be_combined_with_a_plan_is_refused_in_one_line(arguments: dict[str, Any], words: str) -> None:
    module = arguments.pop("module", None) or Plain(network())
    callbacks = arguments.pop("callbacks", [])
    scheduler = BatchSizeScheduler(batching.Fixed(size=arguments.pop("size", 10)), schedules.Constant())
    with pytest.raises(ConfigError) as caught:
        fit(module, scheduler, *callbacks, **arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's strategy declares that it accumulates gradients itself; DeepSpeed need not be installed for this test."""
    from pytorch_lightning.strategies import DeepSpeedStrategy, SingleDeviceStrategy

    assert DeepSpeedStrategy.handles_gradient_accumulation.fget(None)  # type: ignore[attr-defined]
    monkeypatch.setattr(SingleDeviceStrategy, "handles_gradient_accumulation", True)
    with pytest.raises(ConfigError, match="strategy=SingleDeviceStrategy: accumulates gradients by itself"):
        fit(Plain(network()), BatchSizeScheduler(batching.Fixed(size=10)))


def test_the_guards_notice_who_changes_the_window() -> None:
    class Meddler(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
            trainer.accumulate_grad_batches = 2

    with pytest.raises(RuntimeError, match="another callback or the module changes accumulate_grad_batches"):
        fit(Plain(network()), BatchSizeScheduler(batching.Fixed(size=9), max_micro_batch_size=3), Meddler())


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")
@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_a_micro_batch_without_a_loss_is_an_error_not_a_wrong_gradient(skipped: int) -> None:
    class Skips(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if len(self.seen) == 4 + skipped else loss

    with pytest.raises(RuntimeError, match=f"update 1, micro-batch {skipped}: 0 backward passes instead of one"):
        fit(Skips(network()), BatchSizeScheduler(batching.Fixed(size=10), max_micro_batch_size=4))


def test_an_optimizer_that_calls_its_closure_again_is_an_error() -> None:
    module = Plain(network(), lambda parameters: torch.optim.LBFGS(parameters, max_iter=3))
    with pytest.raises(RuntimeError, match=r"backward passes instead of one; .*LBFGS"):
        fit(module, BatchSizeScheduler(batching.Fixed(size=10), max_micro_batch_size=4))
