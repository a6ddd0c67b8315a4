"""What an error of the connection between processes says of another process."""

from __future__ import annotations

import pytest
from torch import distributed

from noisescale.app.launchers.ranks import lost_process


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 8000ms for recv operation to complete", "did not answer"),
        ("Application timeout caused pair closure", "did not answer"),
        ("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1234", "the loss of another process"),
        ("NCCL communicator was aborted", "the loss of another process"),
        ("mat1 and mat2 shapes cannot be multiplied", ""),
    ],
)
def test_an_error_of_the_connection_is_another_process(said: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr("noisescale.app.launchers.ranks._GRACE", 0.0)
    found = lost_process(RuntimeError(said))
    assert (found is None) == (not reason)
    assert found is None or reason in str(found)
