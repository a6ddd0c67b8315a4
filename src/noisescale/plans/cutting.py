"""How the examples of one update are cut into micro-batches. Plain numbers, standard library only."""

from __future__ import annotations

import math
from functools import lru_cache

__all__ = ["can_be_halved", "count_parts", "cut", "smallest_group", "split_evenly"]


def split_evenly(total: int, parts: int) -> list[int]:
    """`parts` whole numbers that sum to `total` and differ by at most 1, the larger ones first; some are 0 if parts > total."""
    quotient, rest = divmod(total, parts)
    return [quotient + (i < rest) for i in range(parts)]


def count_parts(size: int, devices: int, multiple: int, at_most: int | None) -> int:
    """k, the fewest micro-batches per device for `size` examples in pieces of `at_most` (a multiple of `multiple`; None: no limit)."""
    if at_most is None:
        return 1
    return math.ceil(math.ceil(size / multiple) / (devices * (at_most // multiple)))


@lru_cache  # most updates of a run are cut like the one before
def cut(size: int, parts: int, multiple: int = 1, at_least: int = 1, at_most: int | None = None) -> tuple[int, ...]:
    """The examples in each of `parts` pieces that sum to `size`, the empty ones last; () if there is no such cut.

    The pieces are nearly equal multiples of `multiple`, except the last one that is not empty. Where one of them would have fewer than
    `at_least` examples, fewer of them are used, or examples move to the last one from the one before it.

    Args:
        size: B, in examples.
        parts: k W, enough for pieces of `at_most`, see `count_parts`.
        multiple: the size of a ghost batch, in examples; 1 without ghost batches.
        at_least: the fewest examples that a layer may normalise together: in a piece, or in a ghost batch if `multiple` is above 1.
        at_most: the most examples of a piece; None: no limit.
    """
    units = math.ceil(size / multiple)
    used = min(units, parts)
    if multiple == 1:
        used = max(1, min(used, size // at_least))
    sizes = [multiple * part for part in split_evenly(units, used)]
    sizes[-1] -= units * multiple - size
    missing = at_least - sizes[-1]
    if missing > 0 and used > 1:
        sizes[-2:] = sizes[-2] - missing, at_least
    fits = at_most is None or max(sizes) <= at_most
    if not fits or min(smallest_group(each, multiple) for each in sizes) < at_least:
        return ()
    return (*sizes, *[0] * (parts - used))


def can_be_halved(size: int, multiple: int = 1, at_least: int = 1, at_most: int | None = None) -> bool:
    """Whether `cut` makes two pieces of `size` examples, neither of them empty; the arguments are those of `cut`."""
    pieces = cut(size, 2, multiple, at_least, at_most)
    return len(pieces) == 2 and 0 not in pieces


def smallest_group(size: int, ghost: int) -> int:
    """The fewest of `size` >= 1 examples that are normalised together: all of them, or those of a ghost batch if `ghost` is above 1.

    Ghost batch norm cuts them into ceil(size / ghost) nearly equal ghost batches.
    """
    return size if ghost == 1 else size // math.ceil(size / ghost)
