"""Check, before training, that the gradient of a batch does not depend on how the batch is cut into micro-batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm

from noisescale.execution.batched import BatchedDataset
from noisescale.execution.cut_layers import batch_norms, dropouts, obeys, see_whole_updates, turn_off
from noisescale.execution.cuts import Cuts, Pass
from noisescale.execution.fetching import SeededList
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.random_generators import seed_random_generators
from noisescale.execution.trial import Trial, trial_of
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

ROUNDING = 1e-4
"""Relative differences up to this are rounding, in float32."""

LOW_PRECISION = 2e-2
"""And up to this they may be, where `training_step` itself computes in bfloat16 or float16."""

Batches = list[tuple[int, Any]]
"""(number of examples, batch on the device) of a micro-batch as a whole, and of its two cuts."""

Draw = Callable[[int], Batches]
"""Seed of the random numbers in the collate function and in the hooks for the transfer -> batches of the same examples."""


def warn_about_cuts(
    trainer: pl.Trainer, module: pl.LightningModule, loader: PlannedLoader, weight: Callable[[Any], float] | None = None
) -> None:
    """Warn if an accumulated gradient would not be that of one big batch: a batch is run whole and in two cuts, on a copy of the module.

    Nothing is checked if no update of the plan is cut. Everything is afterwards as it was before, see `trial_of`; a data set that keeps a
    state of its own may change. A module that cannot be copied, or whose `training_step` cannot be called outside of the training loop, or
    would change the trainer or its optimizers, is said to be unchecked.

    Args:
        trainer: the trainer, before its first update.
        module: the module, on its device.
        loader: the planned loader.
        weight: batch -> the weight of a micro-batch; None: its number of examples.
    """
    update = next((update for update in _updates(loader.plan) if update.accumulate_grad_batches * loader.plan.world_size > 1), None)
    if update is None:
        return
    findings: list[str] = []
    try:
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise RuntimeError(f"{type(trainer.strategy).__name__} divides the module among the devices")
        with trial_of(trainer, module, loader) as trial:
            _look(trial, loader, update, weight, findings)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        advice = "; see weight=" if weight is None else ""
        also = "also " if findings else ""
        rank_zero_info(f"BatchSizeScheduler could not check whether the gradient {also}depends on how a batch is cut ({reason}){advice}")
    if findings:
        rank_zero_warn(
            f"accumulated gradients will not equal those of one big batch: {'; '.join(findings)} (measured before training; "
            "check_cuts=False turns this check off)"
        )


def _updates(plan: Plan) -> Iterator[Update]:
    """Updates of every size, as far as they are searched; none if no update of the plan is cut."""
    if plan.world_size == 1 and plan.limit is None and plan.split_every is None:
        return
    if plan.split_every is not None:
        plan = replace(plan, split_every=1)  # so that the first update of each size is cut as one of them will be
    for stretch in takewhile(lambda stretch: stretch.step < MOST_UPDATES, stretches_of_every_size(plan)):
        yield plan.update_at(stretch.cursor())


def _look(trial: Trial, loader: PlannedLoader, update: Update, weight: Callable[[Any], float] | None, findings: list[str]) -> None:
    """Add to `findings` what makes a cut matter, one clause each; nothing if all differences are within rounding.

    Raises:
        RuntimeError: something could not be measured. What was found before that is in `findings`.
    """
    started, problem, empty, measured = time.monotonic(), "", "", False
    for probe, draw in enumerate(_probes(trial, loader, update)):
        batches = draw(0)
        share, has_weight = (None, True) if weight is None else _share(weight, batches)
        found = _cuts(trial, batches)
        if not has_weight:
            problem = "the examples that were tried have no weight"
        elif found.is_finite(share):
            if not measured:
                found = _look_at_layers(trial, loader.plan, batches, found, share, findings)
            measured = True
            if _differs(found.error(share)) and (cause := _cause(trial, draw, found, share)):
                findings.append(cause)
                return
        elif found.whole.is_finite:
            empty = empty or _without_terms(found, share)
        else:
            problem = "the loss or its gradient is not finite"
        # The devices must make equally many probes, because a step may wait for the other devices.
        late = loader.plan.world_size == 1 and time.monotonic() - started > SECONDS
        if late or (probe + 1) * found.whole.n >= ENOUGH:
            break
    if empty:
        findings.append(empty)
    elif not measured:
        raise RuntimeError(problem)


def _cuts(trial: Trial, batches: Batches, seed: int = 0) -> Cuts:
    return Cuts(*(trial.run(batch, n, seed) for n, batch in batches))


def _differs(errors: tuple[float, float]) -> bool:
    return not all(error <= ROUNDING for error in errors)


def _share(weight: Callable[[Any], float], batches: Batches) -> tuple[float, bool]:
    """The share of the first cut in the weight of both, and whether they have any."""
    _, first, second = (weight(batch) for _, batch in batches)
    total = first + second
    return (first / total, True) if total else (0.0, False)


def _look_at_layers(trial: Trial, plan: Plan, batches: Batches, found: Cuts, share: float | None, findings: list[str]) -> Cuts:
    """Add what dropout and batch norm make of a cut; then turn them off, so that what is left can be seen, which is returned."""
    if dropout := dropouts(trial.twin):
        gradient, _ = errors = found.error(share)
        if _differs(errors):
            findings.append(
                f"dropout draws other masks for other cuts, as in any trainer (gradient {_percent(gradient)}, in this draw): "
                "compare runs with the same max_micro_batch_size and number of devices"
            )
        turn_off(dropout)
        found = _cuts(trial, batches)
    if norms := batch_norms(trial.twin):
        gradient, loss = errors = found.error(share)
        if _differs(errors) and not see_whole_updates(norms, plan, _updates(plan)):
            findings.append(
                f"batch norm sees each micro-batch alone (gradient {_percent(gradient)}, loss {_percent(loss)}): use ghost batch norm, or "
                "the same micro-batches in runs that you compare"
            )
        turn_off(norms)
        found = _cuts(trial, batches)
    return found


def _without_terms(cuts: Cuts, share: float | None) -> str:
    """What is wrong if the loss of all examples is finite, and that of a cut with a weight is not."""
    first = not cuts.first.is_finite and share != 0.0
    which, cut = ("first", cuts.first) if first else ("last", cuts.second)
    size = f"that of the {which} {cut.n} of {cuts.whole.n} examples is not"
    if share is None:
        return (
            f"the loss of a whole batch is finite, but {size}, as with a mean over no target (0/0): give weight=..., a function of the "
            "batch that returns the denominator of its loss, and 0 where that is 0"
        )
    return (
        f"weight is not the denominator of the loss: the loss of a whole batch is finite, but {size}, though weight gives them "
        f"{share if first else 1.0 - share:.3g} of the whole, not 0"
    )


def _cause(trial: Trial, draw: Draw, cuts: Cuts, given: float | None) -> str | None:
    """Why the loss depends on the cut, apart from dropout layers and batch norm; `given` is the share that the weight gives the first.

    None if it does not: if there is no difference in float64 and from the same state, or if it is due to a batch norm that cannot be turned
    off.

    Raises:
        RuntimeError: it cannot be said.
    """
    gradient, loss = cuts.error(given)
    size = f"(gradient {_percent(gradient)}, loss {_percent(loss)})"
    try:
        exact, again = _passes_afresh(trial, draw, in_float64=True)
    except Exception as error:
        if max(gradient, loss) <= LOW_PRECISION:
            raise RuntimeError(f"cuts differ by what may be rounding {size}, and training_step does not run in float64") from error
        exact, again = _passes_afresh(trial, draw, in_float64=False)
    if not _differs(exact.error(given)):
        return None
    if _differs(Cuts(exact.whole, again, again).error()):
        raise RuntimeError("the collate function, a transfer hook or training_step draws random numbers, so that no two passes agree")
    if not _differs(exact.error_of_sum()):
        return f"the loss is a sum over examples {size}: return their mean, and scale the learning rate instead"
    share, n, first = exact.share(), exact.whole.n, exact.first.n
    if 0.0 <= share <= 1.0 and not _differs(exact.error(share)):
        if given is not None:
            return (
                f"weight is not the denominator of the loss {size}: it gives the first {first} of {n} examples {given:.3g} of the whole, "
                f"but they count {share:.3g}"
            )
        return (
            f"the loss is a mean over something other than examples {size}: the first {first} of {n} examples count {share:.3g} of it, not "
            f"{first / n:.3g}. Give weight=..., a function of the batch that returns its denominator, such as the number of target tokens "
            "or the sum of the class weights"
        )
    if not all(obeys(layer) for layer in trial.twin.modules() if isinstance(layer, _BatchNorm)):
        return None
    return (
        f"the loss of an example depends on the other examples of its batch {size}, as with in-batch negatives: use the same micro-batches "
        "in runs that you compare"
    )


def _passes_afresh(trial: Trial, draw: Draw, in_float64: bool) -> tuple[Cuts, Pass]:
    """The batch and its cuts, and the batch again with other random numbers."""
    whole, first, second = trial.run_afresh(draw(0), 0, in_float64)
    (again,) = trial.run_afresh(draw(1)[:1], 1, in_float64)
    return Cuts(whole, first, second), again


def _probes(trial: Trial, loader: PlannedLoader, update: Update) -> Iterator[Draw]:
    """Batches to try, as functions that draw their random numbers.

    The examples are spread evenly over a pass of the data, another one for each, because the data may be sorted. The cuts are whole ghost
    batches.
    """
    plan = loader.plan
    unit = plan.micro_batch_multiple
    most = min(plan.num_examples, max(MOST_EXAMPLES, FEWEST * unit)) // unit
    units = min(max(plan.micro_batch_size(update) // unit, FEWEST), most)
    if units < 2:
        raise RuntimeError("there are too few examples to cut")
    n, first = units * unit, max(units // 3, min(2, units // 2)) * unit
    ranges = (slice(0, n), slice(0, first), slice(first, n))

    def chosen(probe: int) -> torch.Tensor:
        start = probe * plan.num_examples
        return torch.cat([loader.indices(start + i * plan.num_examples // n, 1) for i in range(n)])

    def draw_with(take: Callable[[slice], tuple[int, Any]]) -> Draw:
        def draw(seed: int) -> Batches:
            seed_random_generators(seed)
            return [(count, trial.on_device(batch)) for count, batch in [take(part) for part in ranges]]

        return draw

    if isinstance(loader.dataset, BatchedDataset):
        for probe in range(MOST_PROBES):
            indices = chosen(probe)
            yield draw_with(lambda part, indices=indices: loader.examples.taken(indices[part]))  # type: ignore[misc]
    else:
        lists = (SeededList(chosen(probe).tolist(), derive_seed("cut check", loader.seed, probe)) for probe in range(MOST_PROBES))
        for examples in loader.examples.fetched(lists):
            yield draw_with(lambda part, examples=examples: loader.examples.collated(examples[part]))  # type: ignore[misc]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2g} %"
