"""What is known of a claim once its runs have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noisescale.studies.claims.checks import Values
from noisescale.studies.claims.claim import Claim
from noisescale.studies.claims.verdict import Verdict
from noisescale.studies.runs import Run

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """A claim, its runs and its verdict.

    Attributes:
        claim: the claim at its scale.
        runs: arm -> one run per seed; None for one that is not there. Arms that are functions have none.
        values: metric -> arm -> one value per seed.
        verdict: what came out.
        chosen: arm -> the words that its grid has added.
        failed: a line for each run without an end, whose value is missing.
        tried: arm -> the words of each candidate of its grid -> the mean of the metric that they are compared by; None without one.
        tuning_seconds: of training, summed over the runs of these candidates.
    """

    claim: Claim
    runs: Mapping[str, Sequence[Run | None]]
    values: Values
    verdict: Verdict
    chosen: Mapping[str, Sequence[str]]
    failed: tuple[str, ...] = ()
    tried: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    tuning_seconds: float = 0.0

    def at_ends_of_grids(self) -> list[str]:
        """The choices that are the first or the last value of their grid, beyond which a better one may lie: `tuned: optimizer.lr=0.4`."""
        found = []
        for name, words in self.chosen.items():
            for key, values in self.claim.arms[name].grid.items():
                ends = {f"{key}={values[0]}", f"{key}={values[-1]}"}
                found += [f"{name}: {word}" for word in words if word in ends]
        return found
