"""What plans and runs show: figures, tables and the files of runs; and studies, which train a module many times, for your own code too.

from noisescale.studies import branches
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noisescale.studies.branch_study import branches
    from noisescale.studies.range_study import range_test
    from noisescale.studies.recommendation_study import recommend

__all__ = ["branches", "range_test", "recommend"]

_STUDIES = {
    "branches": "noisescale.studies.branch_study",
    "range_test": "noisescale.studies.range_study",
    "recommend": "noisescale.studies.recommendation_study",
}
"""Where each study is, which imports torch, so that a plan does not: it is imported when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _STUDIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_STUDIES[name]), name)
