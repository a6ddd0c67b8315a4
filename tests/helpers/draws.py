"""The seeds that hypothesis draws for the tests of data, and how many examples it tries."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=40)
seeds = st.integers(0, 2**32)
