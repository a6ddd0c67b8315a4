"""What can be chosen about a recommendation; checked before anything is trained. Plain numbers: no torch, no trainer."""

from __future__ import annotations

from dataclasses import dataclass

from noisescale.errors import check_number
from noisescale.measures.branch_options import BranchOptions

__all__ = ["RecommendationOptions"]


@dataclass(frozen=True)
class RecommendationOptions:
    """How much is measured.

    Args:
        budget: the time that all measurements may take, in minutes, above 0. A piece of work that has begun is finished.
        tolerance: of the branches, see `BranchOptions`.

    Raises:
        ConfigError: a value is out of its range.
    """

    budget: float = 10.0
    tolerance: float = 0.2

    def __post_init__(self) -> None:
        check_number("budget", self.budget, above=0, unit="minutes", remedy="10 is enough for a small network")
        BranchOptions(tolerance=self.tolerance)
