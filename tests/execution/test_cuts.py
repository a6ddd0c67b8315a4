"""The share of a cut, and the errors of a loss that is cut, as plain numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from noisescale.execution.cuts import Cuts, Pass

vectors = st.lists(st.floats(-10, 10), min_size=3, max_size=3).map(lambda values: torch.tensor(values, dtype=torch.float64))


@given(vectors, vectors, st.floats(0.05, 0.95), st.floats(-5, 5), st.floats(-5, 5))
def test_the_share_of_a_cut_is_found(first: Tensor, second: Tensor, a: float, l1: float, l2: float) -> None:
    """For whole = a first + (1 - a) second the error at a is 0, and a is what the least squares give."""
    cuts = Cuts(
        Pass(9, a * l1 + (1 - a) * l2, [a * first + (1 - a) * second]),
        Pass(3, l1, [first]),
        Pass(6, l2, [second]),
    )
    assert max(cuts.error(a)) <= 1e-14
    if (first - second).norm() > 1e-3:
        assert cuts.share() == pytest.approx(a, abs=1e-9)
    plain = Cuts(Pass(9, (l1 + 2 * l2) / 3, [(first + 2 * second) / 3]), cuts.first, cuts.second)
    assert max(plain.error()) <= 1e-14
    total = Cuts(Pass(9, l1 + l2, [first + second]), cuts.first, cuts.second)
    assert max(total.error_of_sum()) <= 1e-14
