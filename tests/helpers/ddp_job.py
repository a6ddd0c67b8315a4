"""Run one rank of several trainings with gloo; prints a line of JSON for each. Started by test_several_processes.py, not a test itself."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch.utils.data import DataLoader, TensorDataset

from noisescale import schedules
from noisescale.callbacks import (
    BatchSizeScheduler,
    Checkpoint,
    EpochRecorder,
    NoiseScaleMonitor,
    SafeCheckpointIO,
    StopOnDivergence,
    TrainingDiverged,
)
from noisescale.plans import strategies as batching
from tests.helpers.classification import batches as labelled
from tests.helpers.classification import classifier
from tests.helpers.denominators import PROBLEMS, BigBatches, NextToken
from tests.helpers.regression import N, Plain, Regression, network
from tests.helpers.trainings import GradientErrors, fit, quiet_trainer, weights


class Saver(pl.Callback):
    """Saves a checkpoint after micro-batch `at` of this rank, and stops."""

    def __init__(self, at: int, path: str) -> None:
        self.at, self.path, self.count = at, path, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.count += 1
        if self.count == self.at:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


class Counted(SafeCheckpointIO):
    """Notes after which updates rank 0 saves."""

    def __init__(self, saves: list[int]) -> None:
        super().__init__()
        self.saves = saves

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self.saves.append(checkpoint["global_step"])


class Reductions(pl.Callback):
    """Counts the all-reduces of gradients."""

    def __init__(self, world: int) -> None:
        self.world, self.count = world, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.world > 1:
            trainer.model.register_comm_hook(None, lambda state, bucket: self._reduce(bucket))  # type: ignore[union-attr, operator]

    def _reduce(self, bucket: Any) -> Any:
        self.count += bucket.is_last()
        work = torch.distributed.all_reduce(bucket.buffer().div_(self.world), async_op=True).get_future()
        return work.then(lambda future: future.value()[0])


class Counting(Plain):
    """Asks in `configure_optimizers` how many updates there will be."""

    updates: float = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.updates = self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


def main(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    world = job["world"]
    dtype = torch.float32 if job.get("dtype") == "float32" else torch.float64
    counter = Reductions(world)
    strategy: Strategy | str = DDPStrategy(process_group_backend="gloo") if world > 1 else "auto"
    chosen = batching.MultiStep(size=job["size"], milestones=[0.6, 1.5], factor=3, last=job["last"])
    problem, norm = job.get("problem"), job.get("norm", False)
    errors = BigBatches() if problem else GradientErrors(Regression(dtype))
    weight = PROBLEMS[problem][1] if problem else None
    batches = BatchSizeScheduler(
        chosen, schedules.Cosine(), max_micro_batch_size=job["limit"], seed=2, sampling_weights=job.get("sampling"), weight=weight
    )
    callbacks: list[pl.Callback] = [batches, NoiseScaleMonitor(job["csv"]), StopOnDivergence(), counter]
    if not norm:  # with batch norm a big batch has another gradient
        callbacks.insert(0, errors)
    if "save" in job:
        callbacks.append(Saver(*job["save"]))
    saves: list[int] = []
    plugins: list[Any] = []
    if "often" in job:
        folder, every = job["often"]
        callbacks.append(Checkpoint(folder, "{step}", save_top_k=-1, every_n_epochs=9, **every))
        plugins.append(Counted(saves))
    module: pl.LightningModule
    if problem:
        module = NextToken(problem, dtype)
    else:
        net = network(dtype, dropout=job.get("dropout", 0.0), norm=norm)
        module = Counting(net, optimizer=_explosive if job.get("explode") else _sgd)
    result: dict[str, Any] = {"diverged": False}
    try:
        trainer = fit(
            module,
            *callbacks,
            strategy=strategy,
            devices=world,
            plugins=plugins,
            enable_checkpointing=bool(plugins),
            ckpt_path=job.get("resume"),
            use_distributed_sampler=False,
            default_root_dir=Path(job["csv"]).parent,
            max_epochs=3,
        )
        result["steps"] = trainer.global_step
    except TrainingDiverged as error:
        result |= {"diverged": True, "steps": error.step}
    return {
        **result,
        "error": max(errors.errors, default=0.0),
        "updates": len(errors.errors),
        "losses": errors.losses if isinstance(errors, BigBatches) else [],
        "targets": errors.weights if isinstance(errors, BigBatches) else [],
        "reductions": counter.count,
        "weights": weights(module).tolist(),
        "saves": saves,
        "seen": getattr(module, "seen", []),
        "buffers": {name: buffer.tolist() for name, buffer in module.named_buffers()},
        "planned": batches.plan.total_updates(),
        "estimated": getattr(module, "updates", None),
    }


def classification(job: dict[str, Any]) -> dict[str, Any]:
    """Two epochs of a classification, each validated twice, with the files of a run and `job["options"]` of the trainer."""
    torch.set_num_threads(1)
    folder = Path(job["folder"])
    batches = BatchSizeScheduler(batching.Fixed(size=7, last="carry"), schedules.Cosine(), max_micro_batch_size=2, seed=2)
    callbacks = [batches, NoiseScaleMonitor(folder / "steps.csv"), EpochRecorder(folder / "epochs.csv")]
    ((x, y),) = labelled([N])
    loader = DataLoader(TensorDataset(x, y), batch_size=N, shuffle=True)
    strategy: Strategy | str = DDPStrategy(process_group_backend="gloo") if job["world"] > 1 else "auto"
    options = {"val_check_interval": 0.5, "max_epochs": 2, "use_distributed_sampler": False, "default_root_dir": folder, **job["options"]}
    trainer = quiet_trainer(*callbacks, strategy=strategy, devices=job["world"], **options)
    module = classifier()
    trainer.fit(module, loader, DataLoader(TensorDataset(x, y), batch_size=N), ckpt_path=job.get("resume"))
    if "save" in job:
        trainer.save_checkpoint(job["save"])
    return {"steps": trainer.global_step, "weights": weights(module).tolist(), "optimizer": str(trainer.optimizers[0].state_dict())}


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def _explosive(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e30)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in json.loads(sys.argv[1]):
        print("RESULT " + json.dumps(classification(each) if "folder" in each else main(each)))
