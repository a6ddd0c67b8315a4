"""Settings for all tests."""

import logging
import os
import signal
import zlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from noisescale.signals import SIGNALS

# Examples have no time limit, because a slow or busy machine does not make a result wrong.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Give torch.compile a separate cache for each kind of processor.

    The key of torch's cache is what a network computes, not the vector unit that it was compiled for. Code from another machine with the
    same /tmp, or from before ATEN_CPU_CAPABILITY was changed, fails to compile or computes wrong numbers.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(config.cache.mkdir(f"torch-compile-{capability}"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all but n cases of each test with `cases(n)`.

    Which ones is decided by a checksum of their names, because cases at equal distances could have a parameter in common.
    """
    tests: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        if (mark := item.get_closest_marker("cases")) is not None:
            tests.setdefault((item.nodeid.partition("[")[0], mark.args[0]), []).append(item)
    for (_, number), cases in tests.items():
        for item in sorted(cases, key=lambda item: zlib.crc32(item.nodeid.encode()))[number:]:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _one_thread_and_no_noise() -> Iterator[None]:
    """Use one thread, so that sums are the same everywhere and no thread waits on a busy machine; silence Lightning's messages."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test in this process cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def default_handlers() -> Iterator[None]:
    """The handlers of signals of a fresh process, because the runner of the tests may have set others; afterwards those of before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
