"""The library speaks to those who write Python; on the command line its arguments have other names, and values as in YAML."""

from __future__ import annotations

import re

__all__ = ["as_typed"]

_SPELLINGS = {
    r"\bor start a new training from its weights(?! with)": "or start a new training from its weights with weights_from=...",
    r"(\bwas trained with [\w.]+=)None\b": r"\1null",
    r"\bweight=(?=\.\.\.|$)": "micro_batch_weight=",
    r"\bweight is not the denominator": "micro_batch_weight is not the denominator",
    r"^weight=": "micro_batch_weight=",
    r"\bcheck_cuts=False": "check_cuts=false",
    r"\bthe strategy has last='(\w+)'; give it last='(\w+)'": r"batch.last is \1; set batch.last=\2",
    r"^(?:batch\.)?match=exact: (.*); set it to ratio\b": r"batch.match=exact: \1; set batch.match=ratio",
    r"; in code of your own also sampling_weights=.*$": "",
    r"\buse BatchSizeScheduler\(seed=\.\.\.\)": "set seed=...",
    r"\bgive BatchSizeScheduler no schedule": "choose scheduler=none",
    r"\bBatchSizeScheduler could not check whether": "it could not be checked whether",
    r"\buse plans\.MultiStep": "choose batch=multistep",
}
"""A pattern of what the library says -> what it is called on the command line."""


def as_typed(words: str) -> str:
    """A message of the library in terms of the command line: `check_cuts=False` -> `check_cuts=false`."""
    for pattern, spelling in _SPELLINGS.items():
        words = re.sub(pattern, spelling, words)
    return words
