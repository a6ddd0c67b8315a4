"""The verdict on a claim: what its checks say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noisescale.studies.claims.checks import Outcome, Values
from noisescale.studies.claims.claim import Claim

__all__ = ["INCONCLUSIVE", "NOT_SUPPORTED", "SUPPORTED", "Verdict", "judge"]

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"


@dataclass(frozen=True)
class Verdict:
    """What came out.

    Attributes:
        word: supported | not supported | inconclusive.
        why: the checks that decided it, in a phrase.
        outcomes: of each check, by its name.
    """

    word: str
    why: str
    outcomes: Mapping[str, Outcome]


def judge(claim: Claim, values: Values) -> Verdict:
    """Inconclusive if a control does not come out as it must, whatever the checks say. Otherwise supported if every check holds, not
    supported if one fails, and inconclusive if one is open.

    The level of all checks together is ALPHA either way: that all must hold to support needs no correction (an intersection-union test),
    and each of k checks refutes at ALPHA / k.
    """
    own = [check for check in claim.checks.values() if not check.control]
    outcomes = {name: check.judge(values, 1 if check.control else len(own)) for name, check in claim.checks.items()}
    blind = [check.name for check in claim.checks.values() if check.control and outcomes[check.name].status != "holds"]
    if blind:
        return Verdict(INCONCLUSIVE, f"the control {', '.join(blind)} did not come out as it must", outcomes)
    failed = [check.name for check in own if outcomes[check.name].status == "fails"]
    if failed:
        return Verdict(NOT_SUPPORTED, f"refuted by {', '.join(failed)}", outcomes)
    undecided = [check.name for check in own if outcomes[check.name].status == "open"]
    if undecided:
        return Verdict(INCONCLUSIVE, f"undecided: {', '.join(undecided)}", outcomes)
    return Verdict(SUPPORTED, f"all {len(own)} checks hold" if len(own) > 1 else f"{own[0].name} holds", outcomes)
