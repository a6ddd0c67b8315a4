"""What Lightning says of its own accord: which of it is left out, and a context in which it says nothing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning_utilities.core.rank_zero as rank_zero_module

import noisescale

__all__ = ["is_ours", "without_lightnings_lines"]

_LOGGERS = ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities")
_PACKAGE = Path(noisescale.__file__).parent

_inside = False


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a line that went through Lightning's log comes from this package, wherever both are installed."""
    return Path(record.pathname).is_relative_to(_PACKAGE)


@contextmanager
def without_lightnings_lines() -> Iterator[None]:
    """Inside, Lightning prints nothing of its own, and each line of ours is shown once, however many trainings there are.

    Afterwards the levels and the filters of its loggers, and Python's filters of warnings, are what they were before.
    """
    global _inside
    if _inside:
        yield
        return
    log, loggers = rank_zero_module.log, [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.level) for logger in (log, *loggers)]
    said: set[str] = set()

    def shown(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        first = line not in said
        said.add(line)
        return first and is_ours(record)

    log.setLevel(log.getEffectiveLevel())
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    log.addFilter(shown)
    _inside = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning|lightning_fabric|lightning_utilities)(\.|$)")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        _inside = False
        log.removeFilter(shown)
        for logger, level in before:
            logger.setLevel(level)
