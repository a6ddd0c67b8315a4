"""What a training draws its examples from: N, and whether with replacement, of a planned loader or of any DataLoader."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

from noisescale.errors import ConfigError
from noisescale.execution.loader import PlannedLoader
from noisescale.execution.sampling import sampler_of

__all__ = ["Population", "population_of"]


class Population(NamedTuple):
    """What examples are drawn from.

    Args:
        num_examples: N, the number of examples that can be drawn, over all devices, however many a pass draws.
        replacement: whether an example can come more than once in a batch.
        unknown: the class name of a sampler that does not say so, and is taken to draw without replacement; empty if it is known.
    """

    num_examples: int
    replacement: bool = False
    unknown: str = ""

    def in_words(self) -> str:
        """`N 200`; `N 200, with replacement`; `N 200 (if MySampler draws without replacement)`."""
        if self.unknown:
            return f"N {self.num_examples} (if {self.unknown} draws without replacement)"
        return f"N {self.num_examples}{', with replacement' if self.replacement else ''}"


def population_of(loader: Any, num_examples: int | None = None) -> Population:
    """The population of a train DataLoader, where `num_examples` is N if it is given.

    Raises:
        ConfigError: N is not given, and the loader does not have it.
    """
    if isinstance(loader, PlannedLoader):
        found = Population(loader.plan.num_examples, loader.plan.replacement)
        return found if num_examples is None else found._replace(num_examples=num_examples)
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        found = _of_sampler(sampler_of(loader), loader)
        return found if num_examples is None else found._replace(num_examples=num_examples)
    if num_examples is not None:
        return Population(num_examples)
    remedy = "give NoiseScaleMonitor(num_examples=...)"
    if not isinstance(loader, DataLoader):
        raise ConfigError("train_dataloader", type(loader).__name__, "does not say how many examples it has", remedy)
    raise ConfigError("train_dataloader", type(loader.dataset).__name__, "has no number of examples", remedy)


def _of_sampler(sampler: Any, loader: DataLoader[Any]) -> Population:
    if isinstance(sampler, DistributedSampler):
        dataset: Any = sampler.dataset
        wrapped = getattr(dataset, "_sampler", None)  # Lightning puts its own around any sampler but torch's two simplest ones
        return Population(len(dataset)) if wrapped is None else _of_sampler(wrapped, loader)
    if isinstance(sampler, WeightedRandomSampler):
        return Population(int((sampler.weights > 0).sum()), sampler.replacement)
    if isinstance(sampler, RandomSampler):
        return Population(len(sampler.data_source), sampler.replacement)
    if isinstance(sampler, SequentialSampler):
        return Population(len(sampler.data_source))
    if isinstance(sampler, SubsetRandomSampler):
        return Population(len(sampler))
    size: int = len(loader.dataset)  # type: ignore[arg-type]
    # A sampler may draw from a part of the data set, but not from more than that; the length of a batch sampler is in batches.
    drawn = len(sampler) if sampler is not loader.batch_sampler and hasattr(sampler, "__len__") else size
    return Population(min(drawn, size), unknown=type(sampler).__name__)
