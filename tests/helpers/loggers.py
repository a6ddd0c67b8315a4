"""A logger that records what it is told, and a reader of what W&B keeps offline."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning.loggers import Logger

BLOCK = 32768
"""W&B's file is a log of LevelDB: records in blocks of this size, behind seven bytes of its own."""


class Recording(Logger):
    """Records in `events`, which all of them share, that a run was opened, its parameters, its metrics, how it was finalized, and its end.

    Args:
        name: the name of the logger, in every event.
        fails: `open`, `report` or `close`: where it raises an error.
    """

    events: ClassVar[list[tuple[str, str, Any]]] = []

    def __init__(self, name: str = "recording", fails: str = "") -> None:
        super().__init__()
        self._name, self.fails, self._opened = name, fails, False

    def _record(self, what: str, value: Any = None) -> None:
        self.events.append((self._name, what, value))

    @property
    def experiment(self) -> Recording:
        if self.fails == "open":
            raise RuntimeError("no connection\nto the server")
        if not self._opened:
            self._opened = True
            self._record("open")
        return self

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._record("parameters", dict(params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.fails == "report" and any(name.startswith("final/") for name in metrics):
            raise RuntimeError("the disk is full")
        self._record("metrics", (step, dict(metrics)))

    def finalize(self, status: str) -> None:
        self._record("finalize", status)

    def end(self) -> None:
        if self.fails == "close":
            raise RuntimeError("the server is gone")
        self._record("end")


def records_of(file: Path) -> Iterator[Any]:
    """The records in a `run-*.wandb` file."""
    proto: Any = import_module("wandb.proto.wandb_internal_pb2")
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = proto.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record
