"""Images that do not fit in memory; each batch is decoded when it is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from noisescale.data.decoding import decode_batch

__all__ = ["FileImages"]


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files whose rows can be selected like those of a tensor of the decoded images; for `ImageDataset`.

    Attributes:
        files: n paths, one per image.
        channels, size, resize: as for `decode_batch`.
    """

    files: Sequence[str]
    channels: int
    size: tuple[int, int]
    resize: bool

    @property
    def shape(self) -> torch.Size:
        """(n, c, h, w)."""
        return torch.Size((len(self.files), self.channels, *self.size))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The images of the files `index`, int64 (b,), decoded now, in this thread.

        Raises:
            ImageFileError: a file has changed since all files were checked at the start.
        """
        assert dim == 0
        chosen = [self.files[i] for i in index.tolist()]
        return decode_batch(chosen, channels=self.channels, size=self.size, resize=self.resize)
