"""Schedules and factors that hypothesis draws, how often it does, and when two factors are equal."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from noisescale.schedules import (
    WSD,
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Inverse,
    Linear,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
)

some = settings(max_examples=30)
many = settings(max_examples=200)

close = partial(pytest.approx, rel=1e-9, abs=1e-12)

factors = st.floats(0.05, 1.0)
"""Values of gamma, start_factor and their like, which are in (0, 1]."""

lengths = st.floats(0.01, 100.0) | st.integers(1, 1000).map(lambda tenths: tenths / 10)
any_factor = st.floats(0.0, 1.0)
open_horizon = st.none()

SCHEDULES: st.SearchStrategy[Schedule] = st.one_of(
    st.just(Constant()),
    st.builds(Step, lengths, factors),
    st.builds(MultiStep, st.lists(lengths, unique=True).map(sorted), factors),
    st.builds(Inverse, st.floats(0.0, 1e6)),
    st.builds(Exponential, gamma=factors),
    st.builds(Exponential, rate=st.floats(0.0, 1e6)),
    st.builds(Polynomial, st.floats(0.01, 100.0), open_horizon | lengths),
    st.builds(Linear, factors, any_factor, open_horizon | lengths),
    st.builds(Cosine, open_horizon | lengths, any_factor),
    st.builds(CosineRestarts, lengths, st.sampled_from([1, 1.0, 1.5, 2, 10]), any_factor),
    st.builds(
        Cyclic,
        lengths,
        st.none() | lengths,
        st.sampled_from(["triangular", "triangular2", "exp_range"]),
        factors,
        st.none() | any_factor,
    ),
    st.builds(OneCycle, open_horizon | lengths, st.floats(0.01, 0.99), st.sampled_from(["cos", "linear"])),
    st.builds(WSD, st.floats(0.01, 1.0), st.sampled_from(["linear", "cosine", "sqrt"]), any_factor, open_horizon | lengths),
)
"""Every schedule, with options for which its factor stays in [0, 1]; some horizons are open."""
