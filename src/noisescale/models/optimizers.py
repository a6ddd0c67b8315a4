"""From a config's optimizer options to an optimizer of a model; and RMSProp with Nesterov momentum, which torch lacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from noisescale.errors import ConfigError, check_number
from noisescale.plans.checks import check_optimizer_options

__all__ = ["OptimizerFactory", "RMSpropNesterov", "parameter_groups"]

_NORMALISATION = (
    nn.modules.batchnorm._NormBase,  # batch norms (synchronised and ghost too) and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class OptimizerFactory:
    """`factory(module)` -> an optimizer of the module's trainable parameters; for a LightningModule's `configure_optimizers`.

    The options are checked when the factory is made, before there is a model: by `plans.checks.check_optimizer_options`; then that the
    optimizer has each of them; then whatever torch checks itself. It can be pickled, and called more than once: each call makes a new
    optimizer.

    Args:
        partial: `functools.partial` of a `torch.optim.Optimizer` class that waits for the parameters; its keywords are the
            options. A list among them becomes a tuple, so that no config object enters a checkpoint.
        decay_biases_and_norms: see `parameter_groups`. The weight decay is the partial's, or the class's own default.

    Raises: ConfigError, its key without a group (`lr`). A call raises ValueError if the module has no trainable parameter.
    """

    partial: functools.partial[Any]
    decay_biases_and_norms: bool

    free_on_resume: ClassVar[frozenset[str]] = frozenset({"fused", "foreach"})
    """Options that a resumed run may change: how a step is computed, not what is learned."""

    def __post_init__(self) -> None:
        flag: Any = self.decay_biases_and_norms
        if not isinstance(flag, bool):
            raise ConfigError("decay_biases_and_norms", flag, "must be true or false", "true is what torch does")
        options = {key: _plain(value) for key, value in self.partial.keywords.items()}
        object.__setattr__(self, "partial", functools.partial(self.partial.func, *self.partial.args, **options))
        _check_options(self.partial)

    @classmethod
    def from_config(cls, partial: functools.partial[Any]) -> OptimizerFactory:
        """The factory for an instantiated conf/optimizer: `decay_biases_and_norms` is ours, its other options are torch's."""
        options = dict(partial.keywords)
        flag = options.pop("decay_biases_and_norms", None)
        return cls(functools.partial(partial.func, *partial.args, **options), flag)

    def __call__(self, module: nn.Module) -> Optimizer:
        weight_decay = _probe(self.partial).defaults.get("weight_decay", 0.0)
        groups = parameter_groups(module, weight_decay, self.decay_biases_and_norms)
        if not groups:
            raise ValueError("the model has no trainable parameter: there is nothing to optimise")
        optimizer: Optimizer = self.partial(groups)
        # A checkpoint brings the options of its own run, and buffers in the memory order of its own weights.
        optimizer.register_load_state_dict_pre_hook(_keep_implementation)
        optimizer.register_load_state_dict_post_hook(_lay_out_as_parameters)
        return optimizer


def parameter_groups(module: nn.Module, weight_decay: float, decay_biases_and_norms: bool) -> list[dict[str, Any]]:
    """The trainable parameters as param groups of a torch optimizer, each once, in the order of `module.parameters()`.

    With `decay_biases_and_norms` one group, with everything: what `Optimizer(module.parameters())` does. Without it two, the
    second with weight_decay 0: all parameters of batch, instance, group, layer and RMS norms, and all that are called a bias
    (`bias`, `in_proj_bias`, `bias_hh_l0`), also where they are shared with a layer that decays. Empty groups are left out.

    Args:
        weight_decay: of the decayed parameters, at least 0. Coupled in SGD, decoupled in AdamW: the optimizer's matter.

    Raises: ConfigError if `weight_decay` is negative or not finite.
    """
    check_number("weight_decay", weight_decay, at_least=0.0)
    trainable = [p for p in module.parameters() if p.requires_grad]
    undecayed: set[int] = set()
    if not decay_biases_and_norms:
        # Duplicates are kept, because a parameter with two names in one layer is spared if either is a bias.
        for layer in module.modules():
            for name, parameter in layer.named_parameters(recurse=False, remove_duplicate=False):
                if isinstance(layer, _NORMALISATION) or "bias" in name.split("_"):
                    undecayed.add(id(parameter))
    groups = [
        {"params": [p for p in trainable if id(p) not in undecayed], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in undecayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _keep_implementation(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state with this optimizer's own `fused` and `foreach`: they are no part of what was learned."""
    own = {key: optimizer.defaults[key] for key in ("fused", "foreach") if key in optimizer.defaults}
    return state_dict | {"param_groups": [group | own for group in state_dict["param_groups"]]}


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Each buffer in the memory order of its parameter: torch's fused steps go by memory and would pair the wrong numbers."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _check_options(partial: functools.partial[Any]) -> None:
    options = partial.keywords
    name = getattr(partial.func, "__name__", str(partial.func))
    known = inspect.signature(partial.func).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for key in options:
            if key not in known:
                raise ConfigError(key, options[key], f"is no option of {name}", f"its options: {', '.join([*known][1:])}")
    check_optimizer_options(options)
    try:
        _probe(partial)
    except (TypeError, ValueError) as error:
        raise ConfigError("_target_", name, str(error)) from error


def _probe(partial: functools.partial[Any]) -> Optimizer:
    """The optimizer on a parameter of no consequence: torch's own checks run, and its defaults can be read."""
    optimizer: Optimizer = partial([nn.Parameter(torch.zeros(1))])
    return optimizer


class RMSpropNesterov(Optimizer):
    """RMSProp with Nesterov momentum: the gradient is taken where the velocity is about to carry the parameters.

    The book's step, with rate e, momentum a, decay r' of the squared-gradient average r, velocity v:

        theta~ = theta + a v;  g = grad L(theta~);  r = r' r + (1 - r') g g;  v = a v - e g / sqrt(r);  theta = theta + v

    A training loop takes the gradient where the parameters are, so between steps the parameters here hold theta~, the interim
    point (as in torch's Nesterov SGD), and a step is the same recursion written for it: v = a v - d, theta~ = theta~ + a v - d,
    d = e g / (sqrt(r) + eps). The book's theta is `p - momentum * state["velocity"]`. Validation therefore sees theta~.

    The velocity carries the rate: a change of `lr` acts on new contributions only and old ones fade at the old rate, as in
    the book and unlike torch's SGD and RMSprop, whose buffers hold gradients and are multiplied by the present rate (Goyal et
    al. 2017, arXiv:1706.02677, section 3). A change of `momentum` reaches the interim point at the end of that step.
    r starts at 0 without a correction, so the first steps are longer: the very first is e / sqrt(1 - alpha) in each
    coordinate, ten times e for alpha = .99.

    Args:
        lr: the book's epsilon, at least 0: parameter units per step for a gradient of typical size.
        alpha: the book's rho, in [0, 1): torch's name in RMSprop. NOT the book's alpha.
        momentum: the book's alpha, in [0, 1). 0 is torch's RMSprop.
        eps: added to sqrt(r); the book's 8.6 has none. A coordinate whose gradient has always been 0 (a dead unit, a pixel that
            is always black) would give 0/0; 1e-8 is torch's value in RMSprop. It may be 0.
        weight_decay: coupled: `weight_decay * theta~` is added to the gradient, as in torch's SGD and RMSprop.

    Raises: ConfigError for options out of range; RuntimeError in `step` for sparse gradients and complex parameters.
    State per parameter: `square_avg` (r) and `velocity` (v), of the parameter's shape.
    Source: Goodfellow, Bengio, Courville, Deep Learning (2016), algorithm 8.6.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        alpha: float,
        momentum: float,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        check_number("lr", lr, at_least=0.0)
        check_number("alpha", alpha, at_least=0.0, below=1.0)
        check_number("momentum", momentum, at_least=0.0, below=1.0)
        check_number("eps", eps, at_least=0.0)
        check_number("weight_decay", weight_decay, at_least=0.0)
        defaults = {"lr": lr, "alpha": alpha, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns the closure's loss, None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._step(parameters, group)
        return loss

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if p.grad is not None and p.grad.is_sparse:
                raise RuntimeError("RMSpropNesterov does not support sparse gradients: build the embedding with sparse=False")
            if p.is_complex():
                raise RuntimeError("RMSpropNesterov does not support complex parameters")
            if not self.state[p]:
                self.state[p] = {"square_avg": torch.zeros_like(p), "velocity": torch.zeros_like(p)}
        gradients = [p.grad for p in parameters if p.grad is not None]
        squares = [self.state[p]["square_avg"] for p in parameters]
        velocities = [self.state[p]["velocity"] for p in parameters]
        lr, alpha, momentum = group["lr"], group["alpha"], group["momentum"]

        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        torch._foreach_mul_(squares, alpha)
        torch._foreach_addcmul_(squares, gradients, gradients, 1.0 - alpha)
        scales = torch._foreach_sqrt(squares)
        torch._foreach_add_(scales, group["eps"])
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_addcdiv_(velocities, gradients, scales, -lr)
        torch._foreach_add_(parameters, velocities, alpha=momentum)
        torch._foreach_addcdiv_(parameters, gradients, scales, -lr)
