"""Settings of every test."""

import logging
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# However slow the machine is, or busy: what an example takes is no matter of right and wrong.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what torch.compile makes apart from what it made for other processors.

    Torch looks a compiled network up by what it computes, not by the vector unit that it was compiled for. Code from before
    ATEN_CPU_CAPABILITY was set to something else, or from another machine with the same /tmp, does not compile, or computes nonsense.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(config.cache.mkdir(f"torch-compile-{capability}"))


@pytest.fixture(autouse=True)
def _one_thread_and_no_noise() -> Iterator[None]:
    """One thread: the same sums everywhere, and no waiting for threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)
