"""StopOnSignal without a plan and beside other handlers; test_stops.py has the runs that are resumed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.callbacks import ModelCheckpoint

from noisescale.callbacks import BatchSizeScheduler, StopOnSignal
from noisescale.plans import Fixed
from noisescale.signals import SIGNALS, Interrupted
from tests.helpers.regression import Plain, Validated, network
from tests.helpers.trainings import fit, ignored, weights

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


@pytest.fixture(autouse=True)
def _left_as_they_were(default_handlers: None) -> Iterator[None]:
    mine = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == mine


class Signals(pl.Callback):
    """Sends signals to this process, one after each of the micro-batches `at`."""

    def __init__(self, number: int, *at: int, hook: str = "on_train_batch_end") -> None:
        self.number, self.at, self.count = number, at, 0
        setattr(self, hook, self.send)

    def send(self, *_: Any, **__: Any) -> None:
        self.count += 1
        if self.count in self.at:
            os.kill(os.getpid(), self.number)


def steps_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_saves_and_ends_with_its_own_status(number: signal.Signals, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        fit(Plain(network()), BatchSizeScheduler(Fixed(10)), StopOnSignal(), Signals(number, 4), default_root_dir=tmp_path)
    assert caught.value.code == 128 + number
    assert isinstance(caught.value, Interrupted)
    assert caught.value.saved == str(tmp_path / "checkpoints" / "last.ckpt")
    assert steps_of(tmp_path / "checkpoints" / "last.ckpt") == 4


def test_without_a_plan_the_update_of_the_trainer_is_finished(tmp_path: Path) -> None:
    stop, saver = StopOnSignal(), ModelCheckpoint(tmp_path / "mine")
    with pytest.raises(Interrupted):
        fit(Plain(network()), stop, saver, Signals(signal.SIGTERM, 5), accumulate_grad_batches=3, enable_checkpointing=True)
    assert steps_of(tmp_path / "mine" / "last.ckpt") == 2


def test_before_the_first_update_there_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        fit(Plain(network()), StopOnSignal(tmp_path / "last.ckpt"), Signals(signal.SIGTERM, 1, hook="on_train_start"))
    assert caught.value.saved is None
    assert not (tmp_path / "last.ckpt").exists()


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not(tmp_path: Path) -> None:
    def job(number: int) -> Any:
        path = tmp_path / f"{number}.ckpt"
        batches = BatchSizeScheduler(Fixed(9), max_micro_batch_size=3, check_cuts=False)
        with pytest.raises(Interrupted) as caught:
            fit(Plain(network()), batches, StopOnSignal(path), Signals(number, 4, 5))
        return caught.value, path

    ended, path = job(signal.SIGINT)
    assert (ended.again, ended.saved, path.exists()) == (True, None, False)
    ended, path = job(signal.SIGTERM)
    assert (ended.again, ended.saved, steps_of(path)) == (False, str(path), 2)


def test_a_signal_at_the_very_end_is_not_lost(tmp_path: Path) -> None:
    module, whole = Plain(network()), Plain(network())
    fit(whole, BatchSizeScheduler(Fixed(10)))
    with pytest.raises(Interrupted, match="SIGUSR1"):
        fit(module, BatchSizeScheduler(Fixed(10)), StopOnSignal(tmp_path / "last.ckpt"), Signals(signal.SIGUSR1, 33))
    assert steps_of(tmp_path / "last.ckpt") == 33
    assert torch.equal(weights(module), weights(whole))


def test_the_handler_of_a_library_is_called_after_the_checkpoint_and_decides(tmp_path: Path) -> None:
    """As that of submitit, which queues the job again and exits, and that of submitit for SIGTERM, which does nothing."""
    path, got = tmp_path / "last.ckpt", []

    def requeue(number: int, frame: Any) -> None:
        got.append((number, steps_of(path)))
        if len(got) == 2:
            raise SystemExit(7)

    signal.signal(signal.SIGUSR2, requeue)
    module = Plain(network())
    with pytest.raises(SystemExit) as caught:
        fit(module, BatchSizeScheduler(Fixed(10)), StopOnSignal(path), Signals(signal.SIGUSR2, 4, 20))
    assert caught.value.code == 7
    assert got == [(signal.SIGUSR2, 4), (signal.SIGUSR2, 20)]
    assert signal.getsignal(signal.SIGUSR2) is requeue
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


def test_lightnings_own_requeueing_under_slurm_waits_for_the_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_ID": "12"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    queued: list[str] = []

    def call(words: list[str], **_: Any) -> int:
        queued.extend(words)
        return 0

    monkeypatch.setattr("pytorch_lightning.trainer.connectors.signal_connector.call", call)
    batches = BatchSizeScheduler(Fixed(9), max_micro_batch_size=3, check_cuts=False)
    trainer = fit(
        Plain(network()),
        *(batches, StopOnSignal(), Signals(signal.SIGUSR1, 4)),
        plugins=[SLURMEnvironment()],
        default_root_dir=tmp_path,
    )
    assert trainer.global_step == 36
    assert queued == ["scontrol", "requeue", "12"]
    assert steps_of(tmp_path / "hpc_ckpt_1.ckpt") == steps_of(tmp_path / "checkpoints" / "last.ckpt") == 2


def test_in_another_thread_nothing_is_handled() -> None:
    ended: list[int] = []
    work = threading.Thread(target=lambda: ended.append(fit(Plain(network()), StopOnSignal()).global_step))
    work.start()
    work.join()
    assert ended == [45]


def test_a_validation_alone_and_its_sanity_check_are_not_disturbed() -> None:
    trainer = fit(Validated(network()), BatchSizeScheduler(Fixed(10)), StopOnSignal(), num_sanity_val_steps=1, max_epochs=1)
    trainer.validate(trainer.lightning_module, verbose=False)


def test_training_with_it_is_bitwise_equal_to_training_without() -> None:
    def trained(*callbacks: pl.Callback) -> torch.Tensor:
        module = Plain(network(dropout=0.2))
        fit(module, BatchSizeScheduler(Fixed(10), seed=1), *callbacks)
        return weights(module)

    assert torch.equal(trained(), trained(StopOnSignal()))
