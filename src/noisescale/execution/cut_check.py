"""Check, before training, that the gradient of a batch does not depend on how the batch is cut into micro-batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from noisescale.execution.cuts import Cuts
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.random_generators import seed_random_generators
from noisescale.execution.trial import copy_of, on_device, run, unchanged
from noisescale.plans.plan import Plan, Update
from noisescale.plans.trainer_limits import stretches_of_every_size
from noisescale.seeding import derive_seed

__all__ = ["warn_about_cuts"]

MOST_UPDATES = 1_000_000
"""How many updates of a plan are searched for one that accumulates."""

ENOUGH, SECONDS, MOST_PROBES = 256, 2.0, 64
"""Batches are tried until one depends on its cut, or until they have so many examples, or on one device until this takes so long. One batch
may show nothing: both cuts of it can have the same mean denominator, as where no example of a rare class is among them."""

MOST_EXAMPLES = 64
"""Examples of a batch that is tried, at most."""

FEWEST = 5
"""Examples (or ghost batches) to compare at least: two cuts, neither of which is a single example, which batch norm refuses."""


def warn_about_cuts(
    trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader, weight: Callable[[Any], float] | None = None
) -> None:
    """Warn if an accumulated gradient would not be that of one big batch: a batch is run whole and in two cuts, on a copy of the module.

    Nothing is checked if no update of the plan is cut. Weights, buffers, gradients and the states of the random number generators do not
    change; a data set that keeps a state of its own may. A module that cannot be copied, or whose `training_step` cannot be called outside
    of the training loop, is said to be unchecked.

    Args:
        trainer: the trainer, before its first update.
        module: the module, on its device.
        loader: the planned loader.
        weight: batch -> the weight of a micro-batch; None: its number of examples.
    """
    update = _first_cut_update(loader.plan)
    if update is None:
        return
    try:
        with unchanged(module):
            findings = _findings(trainer, module, loader, update, weight)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        rank_zero_info(f"BatchSizeScheduler could not check whether the gradient depends on how a batch is cut ({reason}); see weight=")
        return
    if findings:
        rank_zero_warn(
            f"accumulated gradients will not equal those of one big batch: {'; '.join(findings)} (measured before training; "
            "check_cuts=False turns this check off)"
        )


def _first_cut_update(plan: Plan) -> Update | None:
    """The first update that is not a single forward pass."""
    if plan.world_size == 1 and plan.max_micro_batch_size is None and plan.strategy.micro_batch_size is None:
        return None
    for stretch in takewhile(lambda stretch: stretch.step < MOST_UPDATES, stretches_of_every_size(plan)):
        if plan.update_in(stretch).accumulate_grad_batches * plan.world_size > 1:
            return plan.update_at(stretch.cursor())
    return None


def _findings(
    trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader, update: Update, weight: Callable[[Any], float] | None
) -> list[str]:
    """What makes a cut matter, one clause each; none if all differences are within rounding."""
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise RuntimeError(f"{type(trainer.strategy).__name__} divides the module among the devices")
    twin = copy_of(trainer, module, loader)
    # On an accelerator convolutions of different sizes may use TensorFloat-32, which has 10 bits.
    rounding = 1e-4 if module.device.type == "cpu" else 1e-2

    def differs(errors: tuple[float, float]) -> bool:
        if not all(math.isfinite(error) for error in errors):
            raise RuntimeError("the loss or its gradient is not finite")
        return max(errors) > rounding

    findings, started = [], time.monotonic()
    for probe in range(MOST_PROBES):
        batches = _batches(trainer, module, twin, loader, update, probe)
        share = None if weight is None else _share(weight, batches)

        def cuts(seed: int = 0, batches: Sequence[tuple[int, Any]] = batches) -> Cuts:
            return Cuts(*(run(trainer, twin, batch, n, seed) for n, batch in batches))

        if probe == 0:
            findings += _findings_of_layers(twin, cuts, differs, share)
        found = cuts()
        if differs(found.error(share)):
            again = cuts(1, _batches(trainer, module, twin, loader, update, probe, seed=1))
            return [*findings, _cause(found, again, differs, share)]
        # The devices must make equally many probes, because a step may wait for the other devices.
        late = trainer.world_size == 1 and time.monotonic() - started > SECONDS
        if late or (probe + 1) * batches[0][0] >= ENOUGH:
            break
    return findings


def _findings_of_layers(
    twin: nn.Module, cuts: Callable[[], Cuts], differs: Callable[[tuple[float, float]], bool], share: float | None
) -> list[str]:
    """What dropout and batch norm make of a cut; they are turned off in `twin`, so that what is left can be seen."""
    findings = []
    dropout = [layer for layer in twin.modules() if _dropout(layer) > 0]
    if dropout:
        gradient, _ = found = cuts().error(share)
        if differs(found):
            findings.append(
                f"dropout draws other masks for other cuts, as in any trainer (gradient {_percent(gradient)}, in this draw): "
                "compare runs with the same max_micro_batch_size and number of devices"
            )
        for layer in dropout:
            _turn_off(layer)
    norms = [layer for layer in twin.modules() if isinstance(layer, _BatchNorm) and layer.training]
    if norms:
        gradient, loss = found = cuts().error(share)
        for layer in norms:
            layer.training = False
        if differs(found) and not all(isinstance(layer, nn.SyncBatchNorm) for layer in norms):
            findings.append(
                f"batch norm sees each micro-batch alone (gradient {_percent(gradient)}, loss {_percent(loss)}): use ghost batch norm, or "
                "the same micro-batches in runs that you compare"
            )
    return findings


def _share(weight: Callable[[Any], float], batches: Sequence[tuple[int, Any]]) -> float:
    """The share of the first cut in the weight of both."""
    _, first, second = (weight(batch) for _, batch in batches)
    if first + second == 0.0:
        raise RuntimeError("the examples that were tried have no weight")
    return first / (first + second)


def _cause(cuts: Cuts, again: Cuts, differs: Callable[[tuple[float, float]], bool], given: float | None) -> str:
    """Why the loss depends on the cut, apart from dropout layers and batch norm; `given` is the share that the weight gives the first."""
    gradient, loss = cuts.error(given)
    size = f"(gradient {_percent(gradient)}, loss {_percent(loss)})"
    if differs(Cuts(cuts.whole, again.whole, again.whole).error()):
        raise RuntimeError("the collate function, a transfer hook or training_step draws random numbers, so that no two passes agree")
    if not differs(cuts.error_of_sum()):
        return f"the loss is a sum over examples {size}: return their mean, and scale the learning rate instead"
    share = cuts.share()
    if given is not None and 0.0 <= share <= 1.0 and not differs(cuts.error(share)):
        return (
            f"weight is not the denominator of the loss {size}: it gives the first {cuts.first.n} of {cuts.whole.n} examples {given:.3g} "
            f"of the whole, but they count {share:.3g}"
        )
    if 0.0 <= share <= 1.0 and not differs(cuts.error(share)):
        return (
            f"the loss is a mean over something other than examples {size}: the first {cuts.first.n} of {cuts.whole.n} examples count "
            f"{share:.3g} of it, not {cuts.first.n / cuts.whole.n:.3g}. Give weight=..., a function of the batch that returns its "
            "denominator, such as the number of target tokens or the sum of the class weights"
        )
    return (
        f"the loss of an example depends on the other examples of its batch {size}, as with in-batch negatives: use the same micro-batches "
        "in runs that you compare"
    )


def _batches(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    twin: pl.LightningModule,
    loader: PlannedLoader,
    update: Update,
    probe: int,
    seed: int = 0,
) -> list[tuple[int, Any]]:
    """(number of examples, batch on the device) of a micro-batch as a whole, and of its two cuts.

    The examples are spread evenly over pass number `probe`, because the data may be sorted. The cuts are whole ghost batches. `seed` is
    that of random numbers in the collate function and in the hooks for the transfer; the examples are the same for each.
    """
    plan = loader.plan
    unit = plan.micro_batch_multiple
    most = min(plan.num_examples, max(MOST_EXAMPLES, FEWEST * unit)) // unit
    units = min(max(plan.micro_batch_size(update) // unit, FEWEST), most)
    if units < 2:
        raise RuntimeError("there are too few examples to cut")
    n, first = units * unit, max(units // 3, min(2, units // 2)) * unit
    start = probe * plan.num_examples
    indices = torch.cat([loader.indices(start + i * plan.num_examples // n, 1) for i in range(n)])
    ranges = (slice(0, n), slice(0, first), slice(first, n))
    seed_random_generators(seed)
    batches = [loader.taken(indices[part]) for part in ranges]
    if batches[0] is None:
        examples = loader.fetched(indices, derive_seed("cut check", loader.seed, probe))
        seed_random_generators(seed)
        batches = [loader.collated(examples[part]) for part in ranges]
    return [(each[0], on_device(trainer, module, twin, each[1])) for each in batches if each is not None]


def _dropout(layer: nn.Module) -> float:
    """The probability with which a layer drops: of a dropout layer, or of an attention or a recurrent layer that drops by itself."""
    p = layer.p if isinstance(layer, _DropoutNd) else getattr(layer, "dropout", 0.0)
    return float(p) if isinstance(p, (int, float)) and layer.training else 0.0


def _turn_off(layer: nn.Module) -> None:
    if isinstance(layer, _DropoutNd):
        layer.p = 0.0
    else:
        layer.dropout = 0.0  # type: ignore[assignment]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2g} %"
