"""Settings of every test."""

import logging
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread_and_no_noise() -> Iterator[None]:
    """One thread: the same sums everywhere, and no waiting for threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)
