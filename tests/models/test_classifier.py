"""The classification module: its means over an epoch, label smoothing, and the parts of Lightning's module that it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from noisescale.execution.partial_gradient import save_gradient
from noisescale.models import classifier as module_file
from noisescale.models.classifier import Classifier
from tests.helpers.classification import batches, classifier
from tests.helpers.front_door import losses_of, run

pytestmark = [pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*no `val_dataloader`", "ignore:.*LeafSpec")]


def test_attributes_of_the_module_are_kept_as_torch_keeps_them() -> None:
    module = classifier()
    module._current_fx_name = "training_step"
    assert module._current_fx_name == "training_step"
    module.extra = nn.Linear(1, 1)
    module.scale = nn.Parameter(torch.ones(1))
    assert {"extra.weight", "extra.bias", "scale"} <= {name for name, _ in module.named_parameters()}


def test_gradients_are_zeroed_as_by_the_optimizer() -> None:
    module = classifier()
    optimizer = module.make_optimizer(module.net)
    for zero in (lambda: module.optimizer_zero_grad(0, 0, optimizer), optimizer.zero_grad):
        module.net(torch.ones(1, 4)).sum().backward()
        assert all(p.grad is not None for p in module.net.parameters())
        zero()
        assert all(p.grad is None for p in module.net.parameters())


@pytest.mark.parametrize("together", [1, 3, 256])
def test_epoch_means_are_those_of_all_examples(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_file, "SUMMED_TOGETHER", together)
    sizes = [5, 1, 7, 7, 2, 3, 4]
    updates = iter(range(len(sizes)))
    monkeypatch.setattr(Classifier, "global_step", property(lambda _: update))
    module = classifier()
    optimizer = module.make_optimizer(module.net)
    losses, right = [], 0
    for step, (x, y) in enumerate(batches(sizes)):
        update = next(updates)
        loss = module.training_step((x, y), step)
        assert isinstance(loss, Tensor)
        logits = module.net(x).detach()
        losses += F.cross_entropy(logits, y, reduction="none").tolist()
        right += int((logits.argmax(1) == y).sum())
        optimizer.zero_grad()
        loss.mul_(0.5)  # as BatchSizeScheduler weights micro-batches
        loss.backward()
        optimizer.step()
        update += 1
        assert len(module._recent) <= together
        if step == 3:  # a checkpoint inside the epoch
            checkpoint: dict[str, Any] = {}
            module.on_save_checkpoint(checkpoint)
            module.on_train_epoch_start()
            module.on_load_checkpoint(checkpoint)
    module._sum_up()
    assert module._sums is not None
    assert module._count == sum(sizes)
    assert module._sums.tolist() == pytest.approx([sum(losses), right], rel=1e-6)


@pytest.mark.parametrize("continued", [False, True])
def test_the_micro_batches_of_an_update_that_will_be_repeated_are_not_counted_twice(
    continued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates_done = 0
    monkeypatch.setattr(Classifier, "global_step", property(lambda _: updates_done))
    module = classifier()
    for step, batch in enumerate(batches([5, 4, 3])):  # two micro-batches, then the first of the next update
        updates_done = step // 2
        module.training_step(batch, step)
    checkpoint: dict[str, Any] = {}
    if continued:  # inside update 1: with its gradient it goes on, without it is repeated
        save_gradient(module, checkpoint)
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["epoch_sums"][2] == (12 if continued else 9)
    module._sum_up()
    assert module._count == 12


def smoothed(logits: Tensor, labels: Tensor, a: float) -> Tensor:
    """Mean cross-entropy against (1 - a) one-hot + a/C."""
    classes = logits.shape[1]
    targets = (1 - a) * F.one_hot(labels, classes) + a / classes
    return -(targets * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("a", [0.0, 0.2, 0.9])
def test_label_smoothing_is_its_formula_and_in_training_only(a: float) -> None:
    module = Classifier(nn.Linear(4, 3), lambda net: torch.optim.SGD(net.parameters(), lr=0.1), 3, label_smoothing=a)
    ((x, y),) = batches([7])
    torch.testing.assert_close(module.training_step((x, y), 0), smoothed(module.net(x), y, a))
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    module.validation_step((x, y), 0)
    plain = module.mean_loss["val"]
    assert isinstance(plain, Metric)
    torch.testing.assert_close(plain.compute(), smoothed(module.net(x), y, 0.0))


def test_label_smoothing_from_the_front_door(tmp_path: Path) -> None:
    """The loss is linear in a, so the first loss at a = 0.25 follows from those at 0 and 0.5."""
    losses = []
    for a in (0, 0.25, 0.5):
        outcome = run(f"label_smoothing={a}", "trainer.max_steps=1", "callbacks=light", f"hydra.run.dir={tmp_path}/{a}")
        assert outcome.status == 0, outcome.err
        losses += losses_of(tmp_path / str(a))
    plain, between, half = losses
    assert plain != pytest.approx(half, rel=1e-3)
    assert between == pytest.approx((plain + half) / 2, rel=1e-5)


@pytest.mark.parametrize("a", ["1", "-0.1", "x", "true", "null"])
def test_label_smoothing_out_of_its_range_is_one_line(a: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noisescale.app.train.import_libraries", lambda: pytest.fail("torch is imported first"))
    outcome = run(f"label_smoothing={a}")
    assert (outcome.status, outcome.err) == (2, f"error: label_smoothing={a}: must be a finite number in [0, 1)\n")


def test_a_run_is_not_resumed_with_other_label_smoothing(tmp_path: Path) -> None:
    assert run("epochs=1", "model.widths=[4]", f"hydra.run.dir={tmp_path}/a").status == 0
    outcome = run(
        "epochs=2",
        "model.widths=[4]",
        "label_smoothing=0.1",
        f"ckpt_path={tmp_path}/a/checkpoints/last.ckpt",
        f"hydra.run.dir={tmp_path}/b",
    )
    assert outcome.status == 2
    assert "label_smoothing=0.1: the checkpoint was trained with label_smoothing=0.0; resume with the same" in outcome.err
