"""The figure of a claim."""

from __future__ import annotations

from noisescale.studies.claims.figure import look_of


def test_no_two_arms_look_alike() -> None:
    assert len({look_of(number) for number in range(32)}) == 32
    assert [look_of(number)[1] for number in range(4)] == ["-", "--", "-.", ":"], "neighbours differ in print, too"
