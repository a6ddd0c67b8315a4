"""Show a warning of Lightning's once, although Lightning asks for the length of the loader in every epoch."""

from __future__ import annotations

import warnings

__all__ = ["RepeatedWarnings"]


class RepeatedWarnings:
    """Lightning's warnings about the length of an epoch, which are ignored from `ignore` until `undo`."""

    def __init__(self) -> None:
        self._filter: object = None

    def ignore(self) -> None:
        """Ignore them, because the first epoch has shown them."""
        if self._filter is None:
            before = list(warnings.filters)
            warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
            if warnings.filters[0] not in before:
                self._filter = warnings.filters[0]

    def undo(self) -> None:
        """Show them again, as far as the user does."""
        if self._filter in warnings.filters:
            warnings.filters.remove(self._filter)  # type: ignore[attr-defined]
        self._filter = None
