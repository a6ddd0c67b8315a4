"""Compile the network of a run before its first update, so that the time this takes does not count as training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from noisescale.errors import ConfigError

__all__ = ["CompileFirst"]


class CompileFirst(pl.Callback):
    """Run the compiled `pl_module.net` forward and backward once before training, and print on stderr how long that took.

    Weights, buffers, gradients and the states of the random number generators do not change.

    Args:
        image: (c, h, w) of the images.
        mode: the value of `model.compile`, for the error message.

    Raises:
        ConfigError: the network cannot be compiled on this machine, most often because there is no C++ compiler.
    """

    def __init__(self, image: Sequence[int], mode: bool | str) -> None:
        self.image, self.mode = tuple(image), mode

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        net, device, started = pl_module.net, pl_module.device, time.perf_counter()
        assert isinstance(net, nn.Module)
        buffers, modes = [buffer.clone() for buffer in net.buffers()], {layer: layer.training for layer in net.modules()}
        if trainer.is_global_zero and sys.stderr.isatty():
            print("compiling the network, which can take minutes", file=sys.stderr)
        try:
            with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
                self._compile(net, pl_module, trainer.precision_plugin.forward_context)
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            remedy = "install a C++ compiler (g++), or set model.compile=false"
            raise ConfigError("model.compile", self.mode, f"the network cannot be compiled here ({reason})", remedy) from error
        finally:
            for layer, training in modes.items():
                layer.training = training
            for buffer, value in zip(net.buffers(), buffers, strict=True):
                buffer.copy_(value)
        if trainer.is_global_zero:
            print(f"note: compiled the network in {time.perf_counter() - started:.1f} s", file=sys.stderr)

    def _compile(self, net: nn.Module, module: pl.LightningModule, context: Callable[[], AbstractContextManager[None]]) -> None:
        # Two examples, because torch compiles a separate graph for a batch of one. Each mode makes its own images, because torch.compile
        # treats a tensor that was made in inference mode differently.
        images = partial(torch.zeros, 2, *self.image, device=module.device, dtype=module.dtype)
        net.train()
        with context():
            logits: Tensor = net(images())
        # Not `backward`, which would leave gradients behind and call the hooks that average them over devices.
        torch.autograd.grad(logits.sum(), [p for p in net.parameters() if p.requires_grad], allow_unused=True)
        net.eval()
        with torch.inference_mode(), context():
            net(images())
