"""Run a copy of a module forward and backward before training, without a trace."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from enum import Enum
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn

from noisescale.execution.cuts import Pass
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.random_generators import same_generators, seed_random_generators
from noisescale.execution.rehearsal import leaves, without_logs

__all__ = ["Trial", "trial_of"]

PLAIN = (type(None), int, float, complex, str, bytes, range, slice, torch.dtype, torch.device, Enum, Tensor, torch.Size)
HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class Trial:
    """A copy of a module that can be run, in float32 where the module is in float16 or bfloat16.

    It logs nothing, and of the trainer it sees a `View`. In `twin` layers may be turned off.
    """

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule, twin: pl.LightningModule) -> None:
        self._trainer, self._module, self.twin = trainer, module, twin

    def on_device(self, batch: Any) -> Any:
        """What Lightning does with a batch before `training_step`, but with the hooks of the copy, and in full precision."""
        return apply_to_collection(self.as_trained(batch, converted=self._module.dtype == torch.float64), Tensor, _in_full_precision)

    def as_trained(self, batch: Any, converted: bool = True) -> Any:
        """The same in the precision of the training; `converted`: whether its numbers are converted to the type of the weights."""
        if converted:
            batch = self._trainer.precision_plugin.convert_input(batch)
        batch = self._hook(HOOKS[0], batch, 0)
        batch = self._hook(HOOKS[1], batch, self._trainer.strategy.root_device, 0)
        return self._hook(HOOKS[2], batch, 0)

    def _hook(self, name: str, *arguments: Any) -> Any:
        owner = self._trainer._data_connector._datahook_selector.get_instance(name)  # type: ignore[union-attr]
        return getattr(self.twin if owner is self._module else owner, name)(*arguments)

    def loss(self, batch: Any, seed: int) -> Tensor:
        """The loss of a batch, before any backward pass.

        Raises:
            RuntimeError: `training_step` returned no loss.
        """
        seed_random_generators(seed)
        step = self.twin.training_step
        double = self._module.dtype == torch.float64
        with self._trainer.precision_plugin.forward_context() if double else nullcontext():
            output = step(batch, 0) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(batch)
        loss = output.get("loss") if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            raise RuntimeError("training_step returned no loss")
        return loss

    def run(self, batch: Any, n: int, seed: int) -> Pass:
        """One forward and backward pass on a batch of n examples.

        Raises:
            RuntimeError: `training_step` returned no loss, or uses parameters of the module instead of those of the copy.
        """
        with torch.enable_grad():
            loss = self.loss(batch, seed)
        shared = {id(parameter) for parameter in self._module.parameters()}
        if any(id(leaf) in shared for leaf in leaves(loss)):
            raise RuntimeError("training_step uses parameters through a function or a global variable, which a copy of the module shares")
        parameters = [parameter for parameter in self.twin.parameters() if parameter.requires_grad]
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True)
        return Pass(n, float(loss.detach()), [_dense(p, g) for p, g in zip(parameters, gradient, strict=True)])

    def run_afresh(self, batches: Sequence[tuple[int, Any]], seed: int, in_float64: bool) -> list[Pass]:
        """The same for several batches, each with a copy of its own, so that no pass sees what another has left behind.

        Args:
            batches: (number of examples, batch) of each.
            seed: of random numbers.
            in_float64: whether to run in float64, where autocast does nothing.
        """
        return [self._run_afresh(batch, n, seed, in_float64) for n, batch in batches]

    def _run_afresh(self, batch: Any, n: int, seed: int, in_float64: bool) -> Pass:
        fresh = Trial(self._trainer, self._module, copy.deepcopy(self.twin))
        fresh.twin.trainer = copy.copy(self.twin.trainer)
        if not in_float64:
            return fresh.run(batch, n, seed)
        fresh.twin.double()
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return fresh.run(apply_to_collection(batch, Tensor, _doubled), n, seed)
        finally:
            torch.set_default_dtype(default)


@contextmanager
def trial_of(
    trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader, shared: dict[int, Any] | None = None
) -> Iterator[Trial]:
    """A trial of the module. Afterwards its buffers and gradients and the random number generators are as they were before.

    A copy can share more with the module than it should: a method that was replaced by a function still runs on the module itself. What
    else code can reach is not restored: global variables, attributes of classes, the datamodule.

    Args:
        trainer: the trainer.
        module: the module, on its device.
        loader: the planned loader.
        shared: what the copy gets in place of copies of its own, as for `copy.deepcopy`; it is then in the precision of the training, and
            its buffers are left to the caller. None: nothing, and in full precision.

    Raises:
        RuntimeError: something that the module uses can be neither copied nor shown.
    """
    datamodule = getattr(trainer, "datamodule", None)
    parallel = View(trainer.strategy, "trainer.strategy", passed=("all_gather", "barrier", "broadcast", "reduce"))
    nothing: dict[str, Any] = {"logger": None, "loggers": [], "progress_bar_callback": None, "profiler": PassThroughProfiler()}
    view: Any = View(trainer, "trainer", strategy=parallel, datamodule=datamodule, **nothing)
    with ExitStack() as stack:
        stack.enter_context(same_generators(module))
        if shared is None:
            stack.enter_context(_same_buffers_and_gradients(module))
            stack.enter_context(_full_arithmetic())
        if "torch._dynamo" in sys.modules:  # the sizes that a compiled function has seen decide how it is compiled for the next
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if datamodule is not None and getattr(datamodule, "trainer", None) is trainer:
            stack.callback(setattr, datamodule, "trainer", trainer)
            datamodule.trainer = view
        twin = view.lightning_module = view.model = _copy(trainer, module, view, (loader.dataset, datamodule), shared)
        if shared is None and twin.dtype in (torch.float16, torch.bfloat16):
            twin.float()
        yield Trial(trainer, module, twin)


class View:
    """What a trial may see of a trainer: numbers, words, and copies of containers of them and of tensors.

    What is set stays here.

    Args:
        of: what is looked at.
        name: what the user calls it.
        passed: methods that change nothing.
        instead: the values of other attributes.

    Raises:
        RuntimeError: from an attribute that is anything else, such as an optimizer.
    """

    def __init__(self, of: Any, name: str, passed: tuple[str, ...] = (), **instead: Any) -> None:
        self.__dict__.update(_of=of, _name=name, _passed=passed, **instead)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # for example `__deepcopy__`
            raise AttributeError(name)
        value = getattr(self._of, name)
        if name in self._passed:
            return value
        if not _is_plain(value):
            raise RuntimeError(f"training_step or a hook uses {self._name}.{name}, which is not to change before training")
        return copy.deepcopy(value)

    def __deepcopy__(self, memo: dict[int, Any]) -> View:
        return self


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for item in value.items() for part in item)
    if type(value) in (list, tuple, set, frozenset):
        return all(_is_plain(part) for part in value)
    return isinstance(value, PLAIN)


def _copy(
    trainer: pl.Trainer, module: pl.LightningModule, view: Any, kept: tuple[Any, ...], shared: dict[int, Any] | None
) -> pl.LightningModule:
    memo = {} if shared is None else shared
    memo.update({id(each): each for each in kept if each is not None} | {id(trainer): view})
    twin: pl.LightningModule = copy.deepcopy(module, memo)
    twin.trainer = view  # Lightning leaves the trainer out of copies
    return without_logs(twin)


def _in_full_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _dense(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


@contextmanager
def _same_buffers_and_gradients(module: nn.Module) -> Iterator[None]:
    """Restore the buffers and the gradients of `module`."""
    buffers = [buffer.clone() for buffer in module.buffers()]
    gradients = [parameter.grad for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for buffer, value in zip(module.buffers(), buffers, strict=True):
            buffer.copy_(value)


@contextmanager
def _full_arithmetic() -> Iterator[None]:
    """Compute in float32 what is in float32, not in TensorFloat-32 or bfloat16."""
    backends = torch.backends
    settings: list[Any] = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]  # type: ignore[attr-defined]
    settings += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
