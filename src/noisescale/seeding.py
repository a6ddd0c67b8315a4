"""Seeds that depend only on what the random numbers are for, so that workers, restarts and devices cannot change them."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that is a hash of `parts`: (seed, pass), (seed, step, micro-batch, rank), ...

    It is a hash and not a sum, because seed s in pass p + 1 must not get the numbers of seed s + 1 in pass p.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
