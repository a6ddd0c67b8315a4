"""The choice of examples: class-balanced orders, nested subsets and the validation split, all as pure functions."""

from __future__ import annotations

import hashlib
import heapq

import torch
from torch import Tensor

from noisescale.errors import check_count, check_number
from noisescale.plans.dataset_size import check_stand_in_size, split_sizes

__all__ = ["balanced_order", "check_split_options", "derived_generator", "split_train_val"]


def check_split_options(
    *, subset_size: int | None, val_fraction: float, eval_batch_size: int, seed: int, batch_size: int, size: int | None
) -> None:
    """Check the arguments that all data modules of the template share; raises `ConfigError`.

    Args:
        subset_size, eval_batch_size, batch_size, size: in examples, at least 1; subset_size and size may be None, and exclude each other.
        val_fraction: in [0, 1).
        seed: a whole number, at least 0.
    """
    if subset_size is not None:
        check_count("subset_size", subset_size, unit="examples", remedy="null uses all")
    check_number("val_fraction", val_fraction, at_least=0, below=1)
    check_count("eval_batch_size", eval_batch_size, unit="examples")
    check_count("seed", seed, at_least=0)
    check_count("batch_size", batch_size, unit="examples")
    check_stand_in_size(size, subset_size)


def derived_generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with a 64-bit hash of `parts`, so that neighbouring seeds and epochs give unrelated streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def balanced_order(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The first `count` positions of a random order of `labels` in which EVERY prefix is class-balanced.

    The first m positions contain floor or ceil of m n_c / n examples of class c, where n_c of the n examples belong to
    class c. With the same generator state, a smaller `count` gives a prefix of the result for a larger one.

    Args:
        labels: int64, shape (n,), the class of each example.
        count: the number of positions, 0 to n.
        generator: a CPU generator; it determines the order within each class and between classes.

    Returns:
        int64, shape (count,), distinct positions in [0, n).
    """
    n = labels.numel()
    shuffled = torch.randperm(n, generator=generator)
    ties = torch.randperm(n, generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    class_counts = torch.unique(labels, return_counts=True)[1]
    n_c = class_counts.repeat_interleave(class_counts)
    first = (class_counts.cumsum(0) - class_counts).repeat_interleave(class_counts)
    j = torch.arange(n) - first
    # Every prefix is balanced exactly if the j-th example of class c is in its window [floor(j n/n_c), ceil((j+1) n/n_c)) for all j and c.
    # "Earliest deadline first" achieves that: the windows are those of fair scheduling on one machine.
    release = (j * n).div(n_c, rounding_mode="floor")
    deadline = ((j + 1) * n + n_c - 1).div(n_c, rounding_mode="floor")
    waiting = torch.argsort(release, stable=True).tolist()
    releases, jobs = release.tolist(), list(zip(deadline.tolist(), ties.tolist(), range(n), strict=True))
    ready: list[tuple[int, int, int]] = []
    chosen, taken = [], 0
    for place in range(count):
        while taken < n and releases[waiting[taken]] <= place:
            heapq.heappush(ready, jobs[waiting[taken]])
            taken += 1
        chosen.append(heapq.heappop(ready)[2])
    return by_class[torch.tensor(chosen, dtype=torch.int64)]


def split_train_val(labels: Tensor, *, subset_size: int | None, val_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """The positions of the training and of the validation examples, which are disjoint.

    The subset is the first `subset_size` of a balanced order that `seed` determines, so subsets of the same seed are nested.
    The validation examples are a balanced choice from the subset; the training examples are the rest, in the same order.

    Args:
        labels: int64, shape (n,), the class of each example.
        subset_size, val_fraction: as in `split_sizes`.
        seed: any integer.

    Returns:
        (train, val): int64 of shapes (N,) and (n_val,), positions in [0, n).

    Raises:
        ConfigError: as in `split_sizes`.
    """
    n = labels.numel()
    _, n_val = split_sizes(n, subset_size=subset_size, val_fraction=val_fraction)
    subset = torch.arange(n)
    if subset_size is not None:
        subset = balanced_order(labels, subset_size, derived_generator("subset", seed))
    held_out = balanced_order(labels[subset], n_val, derived_generator("validation", seed))
    trains = torch.ones(subset.numel(), dtype=torch.bool)
    trains[held_out] = False
    return subset[trains], subset[held_out]
