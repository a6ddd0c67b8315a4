"""Whether what a class says about its own methods still holds for a class that is derived from it."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["keeps_promise"]


@lru_cache
def keeps_promise(cls: type, promise: str, about: tuple[str, ...]) -> bool:
    """Whether `promise` is defined where the methods that it is `about` are, or in a class that is derived from there.

    A class of a user that is derived from one of ours and overrides a method does not keep what ours says about that method, unless it says
    so itself.

    Args:
        promise: the name of a method or attribute.
        about: names of methods; one that the class does not have is left out.
    """

    def place(name: str) -> int:
        """How many classes, starting with `cls`, have to be asked for `name`."""
        return next((i for i, each in enumerate(cls.__mro__) if name in vars(each)), len(cls.__mro__))

    return all(place(promise) <= place(name) for name in about)
