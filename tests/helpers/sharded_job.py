"""Run one rank of trainings whose module is divided among two gloo processes; prints a line of JSON for each. Not a test itself.

Lightning lets its FSDPStrategy train on GPUs only, and torch's FullyShardedDataParallel looks for one unless it is told its device; with
the device it trains on the CPU as it does on GPUs.
"""

from __future__ import annotations

import json
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from noisescale import schedules
from noisescale.callbacks import BatchSizeScheduler, NoiseScaleMonitor, StopOnSignal
from noisescale.errors import ConfigError
from noisescale.plans import MultiStep
from noisescale.signals import Interrupted
from tests.helpers.regression import Plain, network
from tests.helpers.trainings import fit

distributed: Any = torch.distributed


REDUCTIONS = ("reduce_scatter_single", "reduce_scatter_tensor")
"""The first is the name in newer versions of torch."""


class OnTheCPU(FSDPStrategy):
    """FSDP with gloo."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        from torch.distributed.fsdp import FullyShardedDataParallel

        options = {"sharding_strategy": self.sharding_strategy, "device_id": torch.device("cpu"), **self.kwargs}
        return FullyShardedDataParallel(module=model, **options)


class Sharded(Plain):
    """The regression; with ModelParallelStrategy its layers are divided by `fully_shard`, known as FSDP2."""

    def configure_model(self) -> None:
        if not isinstance(self.trainer.strategy, ModelParallelStrategy) or hasattr(self.net, "unshard"):
            return
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for layer in (*(layer for layer in self.net.modules() if isinstance(layer, nn.Linear)), self.net):
            fully_shard(layer, mesh=mesh)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Sends(pl.Callback):
    """Sends SIGTERM to process 1 after update `at`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at and trainer.global_rank == 1:
            self.at = -1
            signal.raise_signal(signal.SIGTERM)


def strategy(name: str) -> Any:
    gloo = {"process_group_backend": "gloo"}
    if name == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, **gloo)  # type: ignore[arg-type]
    return {"ddp": DDPStrategy, "fsdp": OnTheCPU}[name](**gloo)


def main(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder, counted = Path(job["folder"]), Counter[str]()
    weight = (lambda batch: float(batch[1].abs().sum())) if job.get("weighted") else None
    batches = BatchSizeScheduler(
        MultiStep(size=7, milestones=[0.6, 1.5], factor=3, last="partial"),
        schedules.Cosine(),
        max_micro_batch_size=3,
        seed=job.get("seed", 2),
        weight=weight,
        check_cuts=False,
    )
    callbacks: list[pl.Callback] = [batches, NoiseScaleMonitor(folder / "steps.csv"), StopOnSignal(folder / "last.ckpt")]
    if "signal" in job:
        callbacks.append(Sends(job["signal"]))
    module = Sharded(network(torch.float32))
    kept = {name: getattr(distributed, name) for name in REDUCTIONS if hasattr(distributed, name)}
    for name, function in kept.items():
        setattr(distributed, name, _counting(counted, name, function))
    try:
        options: dict[str, Any] = {"use_distributed_sampler": False, "default_root_dir": folder, "ckpt_path": job.get("resume")}
        fit(module, *callbacks, strategy=strategy(job["strategy"]), devices=2, **options)
        saved = None
    except Interrupted as stop:
        saved = stop.saved
    except ConfigError as error:
        return {"refused": str(error)}
    finally:
        for name, function in kept.items():
            setattr(distributed, name, function)
    assert batches.loader is not None
    return {"updates": batches.loader.cursor.step, "reductions": max(counted.values(), default=0), "saved": saved}


def _counting(counted: Counter[str], name: str, function: Any) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        counted[name] += 1
        return function(*arguments, **named)

    return call


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in json.loads(sys.argv[1]):
        print("RESULT " + json.dumps(main(each)), flush=True)
