"""The command line: Hydra and OmegaConf are imported here and nowhere else."""

import os
import sys
from types import TracebackType
from typing import Any

_hook = sys.excepthook


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
    """Ctrl-C before a command handles signals, while its modules are imported, is one line, too. Python then ends with its status."""
    if issubclass(kind, KeyboardInterrupt) and os.environ.get("HYDRA_FULL_ERROR") != "1":
        print("error: interrupted by SIGINT, with nothing to save", file=sys.stderr)
    else:
        _hook(kind, error, trace)


sys.excepthook = _one_line
