"""When memory runs out in a training: what it was used for, the state after the last whole update in a checkpoint, and how to go on."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import distributed

from noisescale.errors import ConfigError
from noisescale.execution.batch_size_scheduler import BatchSizeScheduler
from noisescale.execution.compatibility import untyped
from noisescale.execution.last_checkpoint import last_path, leave_averages, save_alone
from noisescale.execution.lean import LeanCallback
from noisescale.execution.memory import free_memory, is_out_of_memory
from noisescale.plans.plan import Plan, Update

__all__ = ["MemoryFault", "SaveOnOutOfMemory", "fault_of"]

_TOLD = "noisescale/out_of_memory"
"""The key under which a process tells the others, in the store that connects them."""


@dataclass(frozen=True)
class MemoryFault:
    """What memory was needed for when it ran out.

    Args:
        update: the update that could not be done, counted from 0 over the whole run.
        place: micro-batch | optimizer step | validation | elsewhere.
        size: the examples of the largest micro-batch of that update on one device; None outside of micro-batches.
        half: the `max_micro_batch_size` that halves it; None where it cannot be halved, or would not help.
        reason: what the system says.
        process: the rank of the process whose memory it was.
        saved: the checkpoint of the last whole update; None if none was saved here.
    """

    update: int
    place: str
    size: int | None
    half: int | None
    reason: str
    process: int = 0
    saved: str | None = None

    def in_words(self) -> str:
        """`at update 12, in a micro-batch of 16 examples`."""
        match self.place:
            case "micro-batch":
                where = f", in a micro-batch of {self.size} example{'s' if self.size != 1 else ''}"
            case "optimizer step":
                where = ", in the optimizer's step"
            case "validation":
                where = ", in a validation"
            case _:
                where = ""
        return f"at update {self.update}{where}"


def fault_of(error: BaseException) -> MemoryFault | None:
    """What `SaveOnOutOfMemory` has found out about an error; None for any other error, and for one from outside of a training."""
    found = getattr(error, "memory_fault", None)
    return found if isinstance(found, MemoryFault) else None


class SaveOnOutOfMemory(LeanCallback):
    """When memory runs out in a training with a `BatchSizeScheduler`: save the state after the last whole update.

    The error is raised on as it is, with a note that says what was saved and which `max_micro_batch_size` halves the micro-batch; see
    `fault_of`. A run that goes on from the checkpoint repeats the update under way from its first micro-batch, with the same examples and
    the same random numbers. With half the micro-batch it is the same run, apart from rounding, unless a layer looks at a micro-batch as a
    whole: batch norm, dropout.

    An optimizer that runs out of memory in its step may have changed some of the weights and not others. Then nothing is saved, and the
    checkpoint from before remains.

    With several devices (DDP), the first one saves, even if another one ran out of memory: that one says so before it ends, and the first
    one learns of its end by an error of the connection. With a strategy that divides the module nothing is saved.

    Args:
        path: the checkpoint; None: last.ckpt in the folder of the trainer's checkpoint callback, or of default_root_dir/checkpoints.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = path

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # first among the callbacks, so that the state is saved before the others wind it up
        untyped(trainer).callbacks = [self, *(callback for callback in untyped(trainer).callbacks if callback is not self)]
        _forget(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        batches = next((each for each in untyped(trainer).callbacks if isinstance(each, BatchSizeScheduler)), None)
        if batches is None or batches.loader is None or batches.loader.current is None or trainer.state.fn != TrainerFn.FITTING:
            return
        batches.note_step(trainer)
        if is_out_of_memory(exception):
            fault = _found(trainer, batches, exception)
            _tell(trainer, fault)
        elif (told := _told(trainer, exception)) is not None:
            fault = told
        else:
            return
        if trainer.is_global_zero and not _in_optimizer_step(exception):
            fault = self._saved(trainer, pl_module, batches, exception, fault)
        exception.memory_fault = fault  # type: ignore[attr-defined]
        exception.add_note(_note(fault))

    def _saved(
        self, trainer: pl.Trainer, module: pl.LightningModule, batches: BatchSizeScheduler, error: BaseException, fault: MemoryFault
    ) -> MemoryFault:
        """The fault with the checkpoint that was saved because of it; as it is, if none could be saved."""
        if getattr(trainer, "fast_dev_run", False) or not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            return fault
        path = last_path(trainer, self.path)
        free_memory(error)
        if batches.inside_micro_batch:  # what it has added to the gradients is not saved
            for parameter in module.parameters():
                parameter.grad = None
        with suppress(Exception):  # a full disk, or still too little memory: the error that came first is the one to tell
            leave_averages(trainer, module)
            save_alone(trainer, path)
            return replace(fault, saved=str(path))
        return fault


def _found(trainer: pl.Trainer, batches: BatchSizeScheduler, error: BaseException) -> MemoryFault:
    loader = batches.loader
    assert loader is not None
    assert loader.current is not None
    reason, step = _first_sentences(error), loader.cursor.step
    if untyped(trainer).validating:
        return MemoryFault(step, "validation", None, None, reason, trainer.global_rank)
    if not batches.inside_micro_batch:
        return MemoryFault(step, "elsewhere", None, None, reason, trainer.global_rank)
    if _in_optimizer_step(error):
        return MemoryFault(step, "optimizer step", None, None, reason, trainer.global_rank)
    update = loader.current.update
    size = batches.plan.micro_batch_size(update)
    return MemoryFault(step, "micro-batch", size, _half(batches.plan, update, size), reason, trainer.global_rank)


def _half(plan: Plan, update: Update, size: int) -> int | None:
    """Half of a micro-batch, as a limit that the plan can be carried out with; None if there is none."""
    half = size // 2 // plan.micro_batch_multiple * plan.micro_batch_multiple
    try:
        smaller = replace(plan, max_micro_batch_size=half)
        smaller.pieces(smaller.update_at(update.start), 0)
    except ConfigError:
        return None
    return half


def _in_optimizer_step(error: BaseException) -> bool:
    """Whether an optimizer was changing the weights; the forward and backward pass are a closure that its `step` calls first."""
    inside = False
    for frame, _ in walk_tb(error.__traceback__):
        if isinstance(frame.f_locals.get("self"), torch.optim.Optimizer):
            inside = True
        elif frame.f_code.co_name in ("_wrap_closure", "closure"):
            inside = False
    return inside


def _first_sentences(error: BaseException) -> str:
    """What an error says, without torch's advice: `CUDA out of memory. Tried to allocate 2.00 GiB`."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = words[max(words.find("DefaultCPUAllocator"), 0) :]  # without the line of torch's code
    return ". ".join(words.split(". ")[:2])[:200].removesuffix(".")


def _note(fault: MemoryFault) -> str:
    saved = f"; the state before it is saved in {fault.saved}" if fault.saved else ""
    half = f"; go on from there with BatchSizeScheduler(..., max_micro_batch_size={fault.half})" if fault.saved and fault.half else ""
    return f"memory ran out {fault.in_words()}{saved}{half}"


# -- several processes --------------------------------------------------------------------------------------------------------


def _store() -> Any:
    """The store by which the processes of a run found each other; None in a single process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.distributed_c10d._get_default_store()


def _tell(trainer: pl.Trainer, fault: MemoryFault) -> None:
    """Let the other processes know, before this one ends."""
    with suppress(Exception):  # the first process, which has the store, may be gone
        if trainer.world_size > 1 and (store := _store()) is not None:
            store.set(_TOLD, json.dumps(asdict(fault)))


def _forget(trainer: pl.Trainer) -> None:
    """Forget what was told in an earlier `fit` of the same processes."""
    with suppress(Exception):
        if trainer.world_size > 1 and trainer.is_global_zero and (store := _store()) is not None:
            store.delete_key(_TOLD)


def _told(trainer: pl.Trainer, error: BaseException) -> MemoryFault | None:
    """What another process has told, if its end may be why `error` was raised here."""
    if trainer.world_size == 1 or not isinstance(error, (RuntimeError, SystemExit)):
        return None
    with suppress(Exception):
        if (store := _store()) is not None and store.check([_TOLD]):
            return MemoryFault(**json.loads(store.get(_TOLD)))
    return None
