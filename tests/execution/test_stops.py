"""A run that is stopped anywhere, by whatever cause, and resumed is bitwise equal to the run that was never stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer

from noisescale.callbacks import BatchSizeScheduler, StopOnSignal
from noisescale.files import read_rows
from noisescale.signals import Interrupted
from tests.helpers.regression import Plain, network
from tests.helpers.stopping import HOOKS, STRATEGIES, At, Job, Validations, planned_updates, result, stop, whole
from tests.helpers.trainings import Stop, fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in (*ignored, "ignore:.*callbacks used to create the checkpoint.*")]


SIGNALLED = (*HOOKS[:4], *HOOKS[5:], "on_train_epoch_end")


def fail(trainer: pl.Trainer) -> None:
    raise Stop


class StopBelow(EarlyStopping):
    """Early stopping beside that of every job."""

    def __init__(self, threshold: float) -> None:
        super().__init__("val/loss", stopping_threshold=threshold)


class SaveAtTheEnd(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def stopped(job: Job, folder: Path, saved: str, *callbacks: pl.Callback, **options: Any) -> Path:
    """The checkpoint of a run that was stopped: saved at the end of Lightning's epoch, of its training, after it, or at an exception."""
    path, keep = folder / "saved.ckpt", {"filename": "saved", "enable_version_counter": False}
    savers: dict[str, pl.Callback] = {
        "epoch": ModelCheckpoint(folder, save_on_train_epoch_end=True, **keep),  # type: ignore[arg-type]
        "train end": SaveAtTheEnd(path),
        "exception": ModelCheckpoint(folder, save_top_k=0, save_on_exception=True, **keep),  # type: ignore[arg-type]
    }
    if saved == "exception":
        with pytest.raises(Stop):
            job.fit(folder, *callbacks, savers[saved], **options)
    else:
        trainer, _ = job.fit(folder, *callbacks, *([savers[saved]] if saved in savers else []), **options)
        if saved == "afterwards":
            trainer.save_checkpoint(path)
    return path


class OneSecondPerMicroBatch(Timer):
    """Lightning's timer, which `max_time` adds, with another clock."""

    seconds = 0

    def on_train_batch_end(self, *arguments: Any, **named: Any) -> None:
        self.seconds += 1
        super().on_train_batch_end(*arguments, **named)

    def time_elapsed(self, stage: Any = "train") -> float:
        return float(self.seconds)


CAUSES: dict[str, tuple[Job, list[Callable[[], pl.Callback]], dict[str, Any]]] = {
    "max_steps": (Job(), [], {"max_steps": 10}),
    "max_steps with a weight": (Job(weighted=True), [], {"max_steps": 10}),
    "max_steps at a validation": (Job(interval=2), [], {"max_steps": 10}),
    "max_time": (Job(), [lambda: OneSecondPerMicroBatch({"seconds": 31})], {}),
    "early stopping inside an epoch": (Job(interval=2), [lambda: StopBelow(0.43)], {}),
    "a callback inside an update": (Job("carry", 0.3), [lambda: At("on_before_backward", 40, stop)], {}),
    "a callback before the epoch": (Job("drop"), [lambda: At("on_train_epoch_start", 2, stop)], {}),
    "a callback in the last update of an epoch": (Job("spread", 5), [lambda: At("on_train_batch_start", 33, stop)], {}),
    "a callback and limit_train_batches": (Job(updates=4, interval=3), [lambda: At("on_train_batch_start", 17, stop)], {}),
}


@pytest.mark.cases(4)
@pytest.mark.parametrize(
    ("cause", "saved"),
    [
        *(("max_steps", saved) for saved in ("epoch", "train end", "afterwards")),
        *zip(list(CAUSES)[1:], ("epoch", "train end", "afterwards", "epoch", "train end", "afterwards", "train end", "epoch"), strict=True),
    ],
)
def test_a_run_that_was_stopped_and_resumed_is_the_whole_run(cause: str, saved: str, tmp_path: Path) -> None:
    job, callbacks, options = CAUSES[cause]
    path = stopped(job, tmp_path, saved, *(callback() for callback in callbacks), **options)
    assert len(read_rows(tmp_path / "steps.csv")) < len(whole(job)["steps.csv"].splitlines()) - 1
    assert result(*job.fit(tmp_path, ckpt_path=path), tmp_path) == whole(job)


@pytest.mark.cases(2)
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric val/loss which is not available")
@pytest.mark.parametrize("scheduler", ["epoch", "step", "plateau of each epoch", "plateau of each step"])
def test_a_scheduler_of_the_module_takes_no_step_for_a_part_of_an_epoch(scheduler: str, tmp_path: Path) -> None:
    job = Job("spread", scheduler=scheduler)
    path = stopped(job, tmp_path, "epoch", max_steps=15)
    assert result(*job.fit(tmp_path, ckpt_path=path), tmp_path) == whole(job)


@pytest.mark.cases(3)
@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric val/loss which is not available")
@pytest.mark.parametrize("scheduler", ["epoch", "step", "plateau of each epoch", "plateau of each step"])
@pytest.mark.parametrize(
    "when",
    [{"every_n_train_steps": 1}, {"save_on_train_epoch_end": True}, {"save_on_train_epoch_end": False}],
    ids=lambda when: next(iter(when)),
)
def test_a_scheduler_of_the_module_goes_on_from_any_checkpoint(scheduler: str, when: dict[str, Any], tmp_path: Path) -> None:
    """Lightning saves before a ReduceLROnPlateau takes its step at the end of the epoch or update, and a resumed run must take it."""
    job = Job("spread", 0.5, scheduler=scheduler)
    saver = ModelCheckpoint(tmp_path, filename="{step}-{epoch}", save_top_k=-1, **when)
    job.fit(tmp_path, saver)
    paths = sorted(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    assert len(paths) in (3, 6, 33)
    for path in paths[1 : 30 : 4 if len(paths) > 6 else 1]:
        if int(path.stem.partition("-")[0].removeprefix("step=")) < 33 or "save_on_train_epoch_end" not in when:
            (folder := tmp_path / path.stem).mkdir()
            trainer, module = job.fit(folder, ckpt_path=path)
            found = weights(module).tolist(), [str(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]
            assert found == (whole(job)["weights"], whole(job)["schedulers"]), path.stem


def test_a_run_is_stopped_and_resumed_again_and_again(tmp_path: Path) -> None:
    job, path = Job("carry", 2), None
    for steps in (3, 4, 9, 11, 12):
        trainer, _ = job.fit(tmp_path, ckpt_path=path, max_steps=steps)
        path = tmp_path / f"{steps}.ckpt"
        trainer.save_checkpoint(path)
    assert result(*job.fit(tmp_path, ckpt_path=path), tmp_path) == whole(job)


@pytest.mark.cases(4)
@pytest.mark.parametrize(("hook", "count"), [(hook, 1 + i % 2) for i, hook in enumerate(HOOKS)])
def test_a_run_that_failed_anywhere_and_was_resumed_is_the_whole_run(hook: str, count: int, tmp_path: Path) -> None:
    per_update = "validation" in hook or hook in ("on_before_zero_grad", "on_before_optimizer_step")
    times = count + 1 if hook == "on_train_epoch_start" else count * (3 if per_update else 17)
    job = Job("carry", 0.5) if count == 1 else Job("growing", 2)
    path = stopped(job, tmp_path, "exception", At(hook, times, fail))
    assert result(*job.fit(tmp_path, ckpt_path=path), tmp_path) == whole(job)


def test_a_failure_in_the_validation_of_the_last_update_of_an_epoch(tmp_path: Path) -> None:
    """The resumed run repeats that validation, and then ends the epoch."""
    for job, count in ((Job(), 2), (Job(every=2), 1), (Job(interval=5, every=None), 1)):
        folder = tmp_path / str(job.every)
        path = stopped(job, folder, "exception", At("on_validation_batch_end", count, fail))
        assert result(*job.fit(folder, ckpt_path=path), folder) == whole(job)


def receive(trainer: pl.Trainer) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("hook", "count"),
    [pytest.param(hook, 2 - i % 2, marks=() if "batch_end" in hook else pytest.mark.slow) for i, hook in enumerate(SIGNALLED)],
)
def test_a_run_that_got_a_signal_anywhere_and_was_resumed_is_the_whole_run(hook: str, count: int, tmp_path: Path) -> None:
    per_update = "validation" in hook or hook in ("on_before_zero_grad", "on_before_optimizer_step")
    times = count + 1 if "_epoch_" in hook else count * (3 if per_update else 17)
    job = Job("carry", 0.5) if count == 1 else Job("growing", 2, weighted=True)
    path = tmp_path / "saved.ckpt"
    with pytest.raises(Interrupted, match="SIGTERM"):
        job.fit(tmp_path, StopOnSignal(path), At(hook, times, receive))
    assert len(read_rows(tmp_path / "steps.csv")) < len(whole(job)["steps.csv"].splitlines()) - 1
    assert result(*job.fit(tmp_path, ckpt_path=path), tmp_path) == whole(job)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end"])
def test_a_signal_at_the_end_of_an_epoch(hook: str, tmp_path: Path) -> None:
    """Its validation is left and repeated; once that is done, the run stops before the first update of the next epoch."""
    job, path = Job(), tmp_path / "saved.ckpt"
    times = sum(update.accumulate_grad_batches for update in planned_updates()[:9]) if hook == "on_train_batch_end" else 1
    with pytest.raises(Interrupted):
        job.fit(tmp_path, StopOnSignal(path), At(hook, times, receive))
    assert torch.load(path, weights_only=True)["global_step"] == len(read_rows(tmp_path / "steps.csv")) == 9
    assert result(*job.fit(tmp_path, ckpt_path=path), tmp_path) == whole(job)


@pytest.mark.skipif(not hasattr(pl.callbacks, "EMAWeightAveraging"), reason="needs Lightning 2.6")
@pytest.mark.parametrize("hook", ["on_validation_batch_end", "on_train_batch_end"])
def test_a_signal_while_the_averaged_weights_are_validated(hook: str, tmp_path: Path) -> None:
    def averaging() -> pl.Callback:
        return pl.callbacks.EMAWeightAveraging(decay=0.5)

    job, path = Job(), tmp_path / "saved.ckpt"
    expected = result(*job.fit(tmp_path / "whole", averaging()), tmp_path / "whole")
    with pytest.raises(Interrupted):
        job.fit(tmp_path, averaging(), StopOnSignal(path), At(hook, 2 if "validation" in hook else 33, receive))
    assert result(*job.fit(tmp_path, averaging(), ckpt_path=path), tmp_path) == expected


@pytest.mark.cases(5)
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_backward", "on_after_backward", "on_train_batch_end"])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_stop_waits_for_the_end_of_the_update(hook: str, count: int) -> None:
    trainer = fit(Plain(network()), BatchSizeScheduler(STRATEGIES["growing"], max_micro_batch_size=4), At(hook, count, stop))
    updates = 1 if count <= 3 else 2  # an update has three micro-batches
    assert (trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx + 1) == (updates, 3 * updates)
    assert trainer.min_steps is None


def test_the_trainers_own_least_number_of_updates_is_respected() -> None:
    batches = BatchSizeScheduler(STRATEGIES["growing"], max_micro_batch_size=4)
    trainer = fit(Plain(network()), batches, At("on_train_batch_start", 1, stop), min_steps=11)
    assert (trainer.global_step, trainer.min_steps) == (11, 11)


def test_the_validation_at_a_stop_is_not_counted_by_the_resumed_run(tmp_path: Path) -> None:
    """Lightning validates where it stops; early stopping must not count that, but the metrics of the stopped run are those of its end."""
    job = Job()
    trainer, _ = job.fit(tmp_path, max_steps=10)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    states = torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"]
    assert [each[:2] for each in states["Validations"]["seen"]] == [("validation", 9), ("epoch", 0)]
    seen = next(callback.seen for callback in trainer.callbacks if isinstance(callback, Validations))  # type: ignore[attr-defined]
    assert [each[:2] for each in seen] == [("validation", 9), ("epoch", 0), ("validation", 10), ("epoch", 1)]
    assert float(trainer.callback_metrics["val/loss"]) == seen[2][2]
