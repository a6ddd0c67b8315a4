"""A callback that is added on the command line: +callbacks.first._target_=benchmarks.first_update.FirstUpdate."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback

__all__ = ["FirstUpdate"]


class FirstUpdate(Callback):
    """Write the time at which the first update ends (in seconds since 1970) to a file, and end the process.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, *_: Any) -> None:
        self.path.write_text(repr(time.time()))
        os._exit(0)
