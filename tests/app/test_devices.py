"""trainer=auto: the GPU if there is one. There is none here, so torch's count of them is replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from noisescale.app.config import build
from noisescale.app.devices import accelerator_of, check_devices
from noisescale.measures.noise_scale import _device_in_words
from tests.helpers.front_door import QUICK, run
from tests.helpers.refusals import error_of
from tests.helpers.trainings import ignored

pytestmark = [pytest.mark.filterwarnings(line) for line in ignored]


def config(accelerator: str, devices: int = 1, precision: str = "32-true") -> Any:
    return OmegaConf.create({"trainer": {"accelerator": accelerator, "devices": devices, "precision": precision}, "optimizer": {}})


@pytest.mark.parametrize(("gpus", "chosen", "expected"), [(1, "auto", "gpu"), (0, "auto", "cpu"), (1, "cpu", "cpu"), (1, "gpu", "gpu")])
def test_auto_is_the_gpu_if_there_is_one(gpus: int, chosen: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert check_devices(config(chosen)) == 1
    assert accelerator_of(config(chosen)) == expected


def test_an_accelerator_by_its_name_is_left_to_lightning() -> None:
    assert accelerator_of(config("mps")) == "mps"


@pytest.mark.parametrize("chosen", ["auto", "gpu", "cuda"])
def test_more_gpus_than_there_are(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    error_of(lambda: accelerator_of(config(chosen, devices=2)), "trainer.devices", "this machine has 1 GPUs")


def test_on_a_machine_without_gpus_auto_counts_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert accelerator_of(config("auto", devices=2)) == "cpu"
    error_of(lambda: accelerator_of(config("auto", devices=5000)), "trainer.devices", "CPU processes")


def test_half_precision_goes_with_auto_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert accelerator_of(config("auto", precision="16-mixed")) == "gpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    error_of(lambda: accelerator_of(config("auto", precision="16-mixed")), "trainer.precision", "needs a GPU")


def test_a_run_trains_on_the_device_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def on_the_cpu(cfg: Any, group: str, **arguments: Any) -> Any:
        if group == "trainer":
            asked.append(arguments["accelerator"])
            arguments["accelerator"] = "cpu"
        return build(cfg, group, **arguments)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("noisescale.app.trainer.build", on_the_cpu)
    for words in ([], ["trainer=cpu"]):
        assert run(*QUICK, "callbacks=none", "logger=csv-only", *words, f"hydra.run.dir={tmp_path}").status == 0
    assert asked == ["gpu", "cpu"]


def test_the_first_line_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    names = [_device_in_words(torch.device(name)) for name in ("cpu", "cuda:1", "mps")]
    assert names == ["on the CPU", "on Card 1", "on mps"]
