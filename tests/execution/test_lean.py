"""What keeps Lightning's loop cheap must not change what it does."""

from __future__ import annotations

import inspect
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric

from noisescale.callbacks import Checkpoint, TimedProgressBar
from noisescale.execution.lean import LeanCallback, NoProfiler, use_fast_checksums
from noisescale.models import classifier as module_file
from noisescale.models.classifier import Classifier
from tests.helpers.front_door import losses_of, run
from tests.helpers.trainings import quiet_trainer

BATCHES = 5

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}") for message in (".*does not have many workers", ".*no `val_dataloader`", ".*LeafSpec")
]


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return quiet_trainer(*callbacks, **{"max_epochs": 2, "limit_val_batches": 0, "log_every_n_steps": 1, **options})


def batches(sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 4, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


def loader() -> DataLoader[Any]:
    (x, y), *_ = batches([4 * BATCHES])
    return DataLoader(TensorDataset(x, y), batch_size=4)


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Linear(4, 3), lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), 3)


def fitted(**options: Any) -> tuple[pl.Trainer, Classifier]:
    run, module = trainer(**options), classifier()
    run.fit(module, loader())
    return run, module


def hooks_of_every_batch() -> set[str]:
    """Found by counting: the hooks that a callback hears once per training batch."""
    heard: Counter[str] = Counter()

    def counting(name: str) -> Any:
        return lambda self, *arguments: heard.update([name])

    hooks = [name for name, _ in inspect.getmembers(pl.Callback, inspect.isfunction) if name.startswith("on_")]
    everything = type("Everything", (pl.Callback,), {name: counting(name) for name in hooks})
    trainer(everything()).fit(classifier(), loader())
    return {name for name, count in heard.items() if count == 2 * BATCHES}


def test_the_empty_hooks_are_those_that_lightning_calls_for_every_batch() -> None:
    expected = hooks_of_every_batch()
    for kind in (LeanCallback, Classifier):
        assert {name for name in dir(kind) if name.startswith("on_") and getattr(kind, name) is None} == expected


def test_a_lean_callback_hears_what_it_has_a_hook_for() -> None:
    class Listening(LeanCallback):
        def __init__(self) -> None:
            self.batches = self.epochs = 0

        def on_train_batch_end(self, *arguments: Any) -> None:
            self.batches += 1

        def on_train_epoch_end(self, *arguments: Any) -> None:
            self.epochs += 1

    listening = Listening()
    trainer(listening, LeanCallback()).fit(classifier(), loader())
    assert (listening.batches, listening.epochs) == (2 * BATCHES, 2)


def test_a_profiler_that_measures_nothing_changes_nothing() -> None:
    (_, ours), (_, lightnings) = fitted(profiler=NoProfiler()), fitted()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), lightnings.parameters(), strict=True))


def test_a_hook_that_fails_inside_the_profiler_is_heard() -> None:
    class Failing(pl.Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            raise ArithmeticError("inside")

    with pytest.raises(ArithmeticError, match="inside"):
        trainer(Failing(), profiler=NoProfiler()).fit(classifier(), loader())


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
    module = classifier()
    optimizer = module.make_optimizer(module.net)
    losses, right = [], 0
    for step, (x, y) in enumerate(batches(sizes)):
        loss = module.training_step((x, y), step)
        assert isinstance(loss, Tensor)
        logits = module.net(x).detach()
        losses += F.cross_entropy(logits, y, reduction="none").tolist()
        right += int((logits.argmax(1) == y).sum())
        optimizer.zero_grad()
        loss.mul_(0.5)  # as micro-batches are weighted
        loss.backward()
        optimizer.step()
        if step == 3:  # a checkpoint inside the epoch
            checkpoint: dict[str, Any] = {}
            module.on_save_checkpoint(checkpoint)
            module._sums, module._count = None, 0
            module.on_load_checkpoint(checkpoint)
    module._sum_up()
    assert module._sums is not None
    assert module._count == sum(sizes)
    assert module._sums.tolist() == pytest.approx([sum(losses), right], rel=1e-6)


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
    """Its loss is linear in a: from the first update at 0 and at 0.5, that at 0.25."""
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


def drawn(seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches after which the bar is drawn, of an epoch in which each takes a second."""
    now = iter(range(1000))
    monkeypatch.setattr("noisescale.execution.progress.time.monotonic", lambda: float(next(now)))
    found: list[int] = []
    monkeypatch.setattr(TQDMProgressBar, "on_train_batch_end", lambda self, t, m, o, b, batch_idx: found.append(batch_idx))
    trainer(TimedProgressBar(seconds=seconds), enable_progress_bar=True, max_epochs=1).fit(classifier(), loader())
    return found


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, [0, 1, 2, 3, 4]), (2.0, [0, 2, 4]), (3.0, [0, 3, 4]), (100.0, [0, 4])])
def test_the_bar_is_drawn_by_time_and_at_the_end_of_an_epoch(seconds: float, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(seconds, monkeypatch) == expected


def test_checkpoints_are_those_of_lightning(tmp_path: Path) -> None:
    checkpoints = Checkpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    trainer(checkpoints, enable_checkpointing=True).fit(classifier(), loader())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step=3.ckpt", "step=6.ckpt", "step=9.ckpt"]


def test_checksums_are_those_of_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
    from tensorboard.summary.writer import record_writer

    pytest.importorskip("google_crc32c")
    monkeypatch.setattr(record_writer, "masked_crc32c", None)
    use_fast_checksums.__wrapped__()
    numbers = random.Random(0)
    for length in [0, 1, 8, *(numbers.randrange(400) for _ in range(50))]:
        data = numbers.randbytes(length)
        assert record_writer.masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)
