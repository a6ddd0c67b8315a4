"""The workarounds that make Lightning's loop faster do not change what it does."""

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

from noisescale.callbacks import Checkpoint, TimedProgressBar
from noisescale.execution.lean import LeanCallback, NoProfiler, use_fast_checksums
from noisescale.models import Classifier
from tests.helpers.classification import BATCHES, classifier, loader
from tests.helpers.trainings import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}") for message in (".*does not have many workers", ".*no `val_dataloader`", ".*LeafSpec")
]


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return quiet_trainer(*callbacks, **{"max_epochs": 2, "limit_val_batches": 0, "log_every_n_steps": 1, **options})


def fitted(**options: Any) -> tuple[pl.Trainer, Classifier]:
    run, module = trainer(**options), classifier()
    run.fit(module, loader())
    return run, module


def hooks_of_every_batch() -> set[str]:
    """The hooks that Lightning calls once per training batch, found by counting the calls."""
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


def drawn(seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batches after which the bar is drawn, in an epoch in which each batch takes a second."""
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
