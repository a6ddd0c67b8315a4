"""What is measured of the curvature of a loss, and how: chosen and checked without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noisescale.errors import ConfigError, check_choice, check_count, check_number

__all__ = ["MODES", "CurvatureOptions", "check_when"]

MODES = ("eval", "train")
"""How the module is measured, see `CurvatureOptions`."""


@dataclass(frozen=True, kw_only=True)
class CurvatureOptions:
    """Which quantities are measured, on which examples, in which mode of the module.

    Args:
        examples: of the training set, drawn once with `seed`, on which f, lambda_max and phi are measured; None: all.
        chunk_size: examples of one forward pass, >= 1; in mode `train` also the examples that batch norm sees together.
        mode: eval: batch norm uses its running statistics, and dropout is off. train: batch norm uses the statistics of each chunk, and
            dropout draws the same masks in each evaluation.
        tolerance: of lambda_max: |H v - lambda v| <= tolerance |lambda|, in (0, 1); None: lambda_max is not measured.
        batches: of batch sharpness, drawn from the whole training set; 0: it is not measured.
        batch_size: examples of each of them; None: the effective batch size of the training at that time.
        radii: epsilon of each phi, > 0; empty: phi is not measured.
        full_space: whether phi is measured in the space of all parameters.
        subspace: p: phi is also measured in a random subspace of p dimensions, which takes 4 p bytes for each parameter; None: it is not.
        iterations: of L-BFGS-B for each phi, >= 1.
        seed: of the examples, the batches, the subspace, the starts, and dropout.

    Raises:
        ConfigError: a value is out of its range; nothing is left to measure.
    """

    examples: int | None = 2000
    chunk_size: int = 500
    mode: str = "eval"
    tolerance: float | None = 1e-3
    batches: int = 32
    batch_size: int | None = None
    radii: Sequence[float] = (1e-3, 5e-4)
    full_space: bool = True
    subspace: int | None = 100
    iterations: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for key, remedy in (("examples", "null for all"), ("batch_size", "null for that of the training")):
            if getattr(self, key) is not None:
                check_count(key, getattr(self, key), unit="examples", remedy=remedy)
        check_count("chunk_size", self.chunk_size, unit="examples")
        check_choice("mode", self.mode, MODES)
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, above=0, below=1, remedy="null to leave out lambda_max")
        check_count("batches", self.batches, at_least=0, remedy="0 to leave out batch sharpness")
        self._check_radii()
        if not isinstance(self.full_space, bool):
            raise ConfigError("full_space", self.full_space, "must be true or false")
        if self.subspace is not None:
            check_count("subspace", self.subspace, unit="dimensions", remedy="null for the full space only")
        check_count("iterations", self.iterations)
        check_count("seed", self.seed, at_least=0)
        if self.tolerance is None and self.batches == 0 and not self.spaces:
            raise ConfigError("tolerance", "null", "leaves nothing to measure, with batches=0 and no phi", "choose one of them")

    def _check_radii(self) -> None:
        radii: Any = self.radii
        if isinstance(radii, (str, bytes)) or not isinstance(radii, Sequence):
            raise ConfigError("radii", radii, "must be a list of numbers", "for example radii=[0.001,0.0005]")
        for radius in radii:
            check_number("radii", radius, above=0, remedy=f"given: {list(radii)}")
        if len({f"{radius:g}" for radius in radii}) < len(radii):
            raise ConfigError("radii", list(radii), "has the same number twice")

    @property
    def spaces(self) -> list[tuple[float, int | None]]:
        """(epsilon, dimensions) of each phi; None for the space of all parameters."""
        return [(r, p) for p in ([None] if self.full_space else []) + ([self.subspace] if self.subspace else []) for r in self.radii]


def check_when(every_n_epochs: Any, at_end: Any) -> None:
    """Raise `ConfigError` unless a measurement after every n-th epoch, or at the end, can be made; None is no interval."""
    if every_n_epochs is not None:
        check_count("every_n_epochs", every_n_epochs, unit="epochs", remedy="null for none")
    if not isinstance(at_end, bool):
        raise ConfigError("at_end", at_end, "must be true or false")
    if every_n_epochs is None and not at_end:
        raise ConfigError("at_end", False, "leaves no time to measure", "set every_n_epochs=1, or at_end=true")
