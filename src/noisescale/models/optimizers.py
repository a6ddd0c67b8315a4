"""Make an optimizer for a model from the options of a config; and RMSProp with Nesterov momentum, which torch does not have."""

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
    nn.modules.batchnorm._NormBase,  # batch norms, including synchronised and ghost batch norm, and instance norms
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class OptimizerFactory:
    """`factory(module)` -> an optimizer of the module's trainable parameters; for a LightningModule's `configure_optimizers`.

    The options are checked when the factory is made, before there is a model: whether the optimizer has each of them, then
    by `plans.checks.check_optimizer_options`, then by torch's own checks. A factory can be pickled, and each call makes a new optimizer.

    Args:
        partial: `functools.partial` of a `torch.optim.Optimizer` class, with all arguments but the parameters; its keywords are the
            options. A list among them becomes a tuple, so that no config object ends up in a checkpoint.
        decay_biases_and_norms: see `parameter_groups`. The weight decay is that of `partial`, or else the default of the class.

    Raises:
        ConfigError: an option is unknown or out of its range; its key has no group (`lr`).
        ValueError: on a call, if the module has no trainable parameter.
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
        """The factory for an instantiated option of conf/optimizer: `decay_biases_and_norms` is ours, all other keys are torch's.

        A key that is None is left to the class.
        """
        options = {key: value for key, value in partial.keywords.items() if value is not None}
        flag = options.pop("decay_biases_and_norms", None)
        return cls(functools.partial(partial.func, *partial.args, **options), flag)

    def __call__(self, module: nn.Module) -> Optimizer:
        weight_decay = _probe(self.partial).defaults.get("weight_decay", 0.0)
        groups = parameter_groups(module, weight_decay, self.decay_biases_and_norms)
        if not groups:
            raise ValueError("the model has no trainable parameter: there is nothing to optimise")
        try:
            optimizer: Optimizer = self.partial(groups)
        except ValueError as error:  # such as Muon's, for a parameter that is not a matrix
            raise ConfigError("optimizer", _name(self.partial), " ".join(str(error).split())) from error
        # Loading a checkpoint would restore the options of the run that saved it, and buffers in the memory order of its weights.
        optimizer.register_load_state_dict_pre_hook(_keep_implementation)
        optimizer.register_load_state_dict_post_hook(_lay_out_as_parameters)
        return optimizer


def parameter_groups(module: nn.Module, weight_decay: float, decay_biases_and_norms: bool) -> list[dict[str, Any]]:
    """The trainable parameters as param groups of a torch optimizer, each once, in the order of `module.parameters()`.

    With `decay_biases_and_norms` there is one group with all parameters, as in `Optimizer(module.parameters())`. Without it there are two.
    The second has weight_decay 0 and holds all parameters of batch, instance, group, layer and RMS norms, and all biases, known by their
    names (`bias`, `in_proj_bias`, `bias_hh_l0`), even if they are shared with a layer that decays. Empty groups are left out.

    Args:
        module: the model.
        weight_decay: weight decay of the decayed parameters, at least 0. Whether it is coupled, as in SGD, or decoupled, as in AdamW, is up
            to the optimizer.
        decay_biases_and_norms: whether biases and the parameters of normalisation layers decay too.

    Raises:
        ConfigError: `weight_decay` is negative or not finite.
    """
    check_number("weight_decay", weight_decay, at_least=0.0)
    trainable = [p for p in module.parameters() if p.requires_grad]
    undecayed: set[int] = set()
    if not decay_biases_and_norms:
        # Duplicates are kept, because a parameter with two names in one layer does not decay if either is the name of a bias.
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
    """The state with this optimizer's own `fused` and `foreach`, which say how a step is computed, not what was learned."""
    own = {key: optimizer.defaults[key] for key in OptimizerFactory.free_on_resume if key in optimizer.defaults}
    return state_dict | {"param_groups": [group | own for group in state_dict["param_groups"]]}


def _lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Put each buffer in the memory order of its parameter: torch's fused steps follow the memory and would pair the wrong numbers."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _check_options(partial: functools.partial[Any]) -> None:
    options, name = partial.keywords, _name(partial)
    if not (isinstance(partial.func, type) and issubclass(partial.func, Optimizer)):
        raise ConfigError("_target_", name, "must be an optimizer, a class derived from torch.optim.Optimizer")
    closure = inspect.signature(partial.func.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        problem = "evaluates the loss several times in each step, but an update of a plan has one gradient"
        raise ConfigError("_target_", name, problem, "choose an optimizer whose step needs no closure")
    known = inspect.signature(partial.func).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for key in options:
            if key not in known:
                raise ConfigError(key, options[key], f"is not an option of {name}", f"its options: {', '.join([*known][1:])}")
    check_optimizer_options(options)
    try:
        optimizer = _probe(partial)
    except (TypeError, ValueError, LookupError) as error:
        raise ConfigError("_target_", name, " ".join(str(error).split())) from error
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer.step()
    except RuntimeError as error:
        if "dense gradients" in str(error):  # others, such as those of capturable, concern the device, which is not known here
            raise ConfigError("_target_", name, "needs sparse gradients, which no layer here has", "choose torch.optim.Adam") from error


def _probe(partial: functools.partial[Any]) -> Optimizer:
    """The optimizer of a dummy parameter, which runs torch's own checks and shows the defaults. A matrix, because Muon takes no others."""
    optimizer: Optimizer = partial([nn.Parameter(torch.zeros(1, 1))])
    return optimizer


def _name(partial: functools.partial[Any]) -> str:
    return getattr(partial.func, "__name__", str(partial.func))


class RMSpropNesterov(Optimizer):
    """RMSProp with Nesterov momentum: the gradient is taken at the point to which the velocity is about to move the parameters.

    The step in the book, with learning rate e, momentum a, running average r of the squared gradient with decay r', and velocity v:

        theta~ = theta + a v;  g = grad L(theta~);  r = r' r + (1 - r') g g;  v = a v - e g / sqrt(r);  theta = theta + v

    A training loop takes the gradient at the current parameters. Between steps the parameters here are therefore theta~, the interim point,
    as in torch's Nesterov SGD, and a step is the same recursion in terms of theta~: v = a v - d, theta~ = theta~ + a v - d, with
    d = e g / (sqrt(r) + eps). The book's theta is `p - momentum * state["velocity"]`. Validation uses theta~.

    The velocity contains the learning rate. A change of `lr` affects new contributions only, and old ones keep the learning rate that they
    were made with, as in the book. In torch's SGD and RMSprop, by contrast, the buffers hold gradients, which are multiplied by the current
    learning rate (Goyal et al. 2017, arXiv:1706.02677, section 3). A change of `momentum` affects the interim point at the end of a step.
    r starts at 0 without a bias correction, so the first steps are longer: the very first is e / sqrt(1 - alpha) in each coordinate, which
    is ten times e for alpha = .99.

    Args:
        lr: the book's epsilon, at least 0: how far a step moves a parameter if the gradient has its typical size.
        alpha: the book's rho, in [0, 1). The name is that of torch's RMSprop; it is NOT the book's alpha.
        momentum: the book's alpha, in [0, 1). With 0 the steps are those of torch's RMSprop.
        eps: added to sqrt(r), at least 0; the book's algorithm 8.6 has none. Without it a coordinate whose gradient has always been 0 (of a
            dead unit, or of a pixel that is always black) would give 0/0. The default 1e-8 is that of torch's RMSprop.
        weight_decay: coupled weight decay, at least 0: `weight_decay * theta~` is added to the gradient, as in torch's SGD and RMSprop.

    State of each parameter: `square_avg` (r) and `velocity` (v), in the shape of the parameter.

    Raises:
        ConfigError: an option is out of its range.
        RuntimeError: in `step`, for sparse gradients and complex parameters.

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
        """Update every parameter that has a gradient; returns the loss of the closure, or None without a closure."""
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
