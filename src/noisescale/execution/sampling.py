"""Which examples a pass draws, and in which order: a function of (seed, pass) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from noisescale.errors import ConfigError
from noisescale.seeding import derive_seed

__all__ = ["Sampling", "chosen_sampling", "sampler_of", "sampling_of"]


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the N examples of a pass are drawn from a data set.

    | weights | replacement | a pass |
    | --- | --- | --- |
    | None | False | every example once, in random order; in the order of the data set without `shuffle` |
    | None | True | N independent draws, all examples equally likely |
    | w | True | N independent draws, example i with probability w_i / sum(w) |
    | w | False | every example with w_i > 0 once; the next is i with probability w_i / (the sum of w over those that are left) |

    N is the number of examples that can be drawn: the size of the data set, or the number of weights above 0.

    Args:
        weights: float64 (n,), finite, >= 0, not all 0, one for each example of the data set, in any unit; None: all are equal.
        replacement: whether an example can come more than once in a pass.
        shuffle: False: the order of the data set, only without weights and replacement.

    Not to be confused with the weights of micro-batches, which are the denominators of their losses.
    Source: weights without replacement by exponential clocks, Efraimidis & Spirakis 2006; the distribution is that of torch.multinomial,
    which ends at 2^24 examples.
    """

    weights: Tensor | None = None
    replacement: bool = False
    shuffle: bool = True

    def num_examples(self, size: int) -> int:
        """N, for a data set of `size` examples.

        Raises:
            ConfigError: the number of weights is not `size`.
        """
        if self.weights is None:
            return size
        if len(self.weights) != size:
            given = f"{len(self.weights)} weights"
            raise ConfigError("sampling_weights", given, f"the data set has {size} examples", "give one weight for each of them")
        return len(self._drawable)

    def order(self, size: int, seed: int, number: int) -> Tensor:
        """The examples of pass `number` over a data set of `size` examples, int64 (N,)."""
        n = self.num_examples(size)
        generator = torch.Generator().manual_seed(derive_seed("permutation", seed, number))
        if self.weights is None:
            if self.replacement:
                return torch.randint(n, (n,), generator=generator)
            return torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        drawn, weights = torch.rand(n, dtype=torch.float64, generator=generator), self.weights[self._drawable]
        weights = weights / weights.max()  # so that their sum is finite
        if self.replacement:
            edges = weights.cumsum(0)
            places = torch.searchsorted(edges, drawn * edges[-1], right=True).clamp_(max=n - 1)  # the product may be rounded up to the sum
        else:
            times = (-torch.log1p(-drawn)).log() - weights.log()  # the logarithm of a time that is exponential with rate w_i
            places = times.argsort(stable=True)
        return self._drawable[places]

    def identity(self) -> int:
        """A number that two samplings have in common if they draw the same."""
        weights = b"" if self.weights is None else self.weights.numpy().tobytes()
        return derive_seed("sampling", self.replacement, self.shuffle, hashlib.blake2b(weights).hexdigest())

    @cached_property
    def _drawable(self) -> Tensor:
        """The examples whose weight is above 0."""
        assert self.weights is not None
        return self.weights.nonzero().flatten()


def chosen_sampling(weights: Any, replacement: bool | None) -> Sampling | None:
    """The sampling that a user asks for by `sampling_weights` and `replacement`; None if both are None.

    Args:
        weights: a number for each example, as a tensor or a sequence; None: all are equal.
        replacement: None: as torch's samplers do, True with weights and False without.

    Raises:
        ConfigError: the weights are not a list of finite numbers >= 0, or all of them are 0.
    """
    if replacement is not None and not isinstance(replacement, bool):
        raise ConfigError("replacement", replacement, "must be True, False or None")
    if weights is None:
        return None if replacement is None else Sampling(replacement=replacement)
    key, remedy = "sampling_weights", "give one number for each example"
    try:
        numbers = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(key, type(weights).__name__, "must be a list of numbers or a tensor", remedy) from None
    if numbers.dim() != 1:
        raise ConfigError(key, f"a tensor of shape {tuple(numbers.shape)}", "must have one dimension", remedy)
    wrong = (~(torch.isfinite(numbers) & (numbers >= 0))).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ConfigError(f"{key}[{first}]", float(numbers[first]), "must be a finite number >= 0", "0 for an example that is never drawn")
    if not bool(numbers.any()):
        raise ConfigError(key, f"{len(numbers)} weights", "none of them is above 0, so there is nothing to draw", remedy)
    return Sampling(numbers, True if replacement is None else replacement)


def sampler_of(loader: DataLoader[Any]) -> Any:
    """The sampler that really chooses the examples of a loader, or its batch sampler if that is not torch's own.

    `DataLoader.sampler` is not it for a loader that was made with a batch sampler: that is then the default, which is not used.
    """
    batches = loader.batch_sampler
    if batches is None:
        return loader.sampler
    return batches.sampler if type(batches) is BatchSampler else batches


def sampling_of(loader: Any, chosen: Sampling | None = None) -> Sampling:
    """The sampling of a user's DataLoader, unless another one is chosen.

    torch's own samplers are understood if an epoch of theirs is a pass of N examples. Their generators are not used.

    Raises:
        ConfigError: a plan cannot replace the loader: its examples cannot be indexed, or it draws them in a way of its own.
    """
    remedy = "give one DataLoader over a data set with a length, with shuffle=True or False"
    if not isinstance(loader, DataLoader):
        raise ConfigError("train_dataloader", type(loader).__name__, "must be one torch DataLoader", remedy)
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise ConfigError(
            "train_dataloader", type(loader.dataset).__name__, "an IterableDataset cannot be cut into planned batches", remedy
        )
    if loader.batch_sampler is None:
        raise ConfigError("train_dataloader", "batch_size=None", "must collate examples into batches", remedy)
    size: int = len(loader.dataset)
    sampler = sampler_of(loader)
    name, found = type(sampler).__name__, _understood(sampler, size)
    remedy = "use shuffle=True, or a WeightedRandomSampler of N draws; in code of your own also sampling_weights=..., one for each example"
    if found is None:
        raise ConfigError("train_dataloader", name, "has a sampler of its own, but the plan draws the examples", remedy)
    if chosen is not None and (found.weights is not None or found.replacement):
        problem = "decides which examples are drawn, and so do sampling_weights and replacement"
        raise ConfigError("train_dataloader", name, problem, "leave one of the two out")
    length, n = _length(sampler), found.num_examples(size)
    if length != n:
        problem = f"draws {length} examples in an epoch, but an epoch of a plan is N = {n}, the examples that can be drawn"
        if length < n and not found.replacement:
            remedy = "draw with replacement, or give torch.utils.data.Subset for a part of the data"
        else:
            remedy = f"let it draw {n}, and train for {length / n:.4g} times as many epochs"
        raise ConfigError("train_dataloader", name, problem, remedy)
    return found if chosen is None or (chosen.weights is None and not chosen.replacement) else chosen


def _length(sampler: Any) -> int:
    """The number of examples that a sampler draws in an epoch, over all devices."""
    draws_from: Any = sampler.dataset if isinstance(sampler, DistributedSampler) else sampler
    return len(draws_from)


def _understood(sampler: Any, size: int) -> Sampling | None:
    """What one of torch's samplers does, apart from the number of examples that it draws; None for any other sampler."""
    if type(sampler) is SequentialSampler:
        return Sampling(shuffle=False)
    if type(sampler) is RandomSampler:
        return Sampling(replacement=sampler.replacement)
    if type(sampler) is DistributedSampler:
        return Sampling(shuffle=bool(sampler.shuffle))
    if type(sampler) is WeightedRandomSampler:
        return chosen_sampling(sampler.weights, sampler.replacement)
    if type(sampler) is SubsetRandomSampler:
        return _subset(sampler.indices, size)
    return None


def _subset(indices: Sequence[int], size: int) -> Sampling | None:
    """Each of `indices` once; None if one of them is not an example of the data set, or comes twice."""
    chosen = torch.as_tensor(indices, dtype=torch.int64).flatten()
    if not len(chosen) or len(chosen.unique()) < len(chosen) or int(chosen.min()) < 0 or int(chosen.max()) >= size:
        return None
    return Sampling(torch.zeros(size, dtype=torch.float64).index_fill_(0, chosen, 1.0))
