"""Random crop and flip as a function of (seed, epoch, example), so that batching, workers and devices cannot change it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from noisescale.data.splits import derived_generator

__all__ = ["crop_flip", "crop_flip_table", "crop_padding"]


def crop_padding(image_size: tuple[int, int]) -> tuple[int, int]:
    """Zero padding (rows, columns) in pixels on each side: an eighth of the image, 4 for 32 x 32."""
    return image_size[0] // 8, image_size[1] // 8


def crop_flip_table(*, seed: int, epoch: int, num_examples: int, image_size: tuple[int, int]) -> Tensor:
    """What `crop_flip` does to each example in one epoch.

    Returns:
        int64, shape (num_examples, 3), on the CPU: dy uniform in [0, 2 pad_h], dx uniform in [0, 2 pad_w], flip in {0, 1}.
    """
    generator = derived_generator("crop_flip", seed, epoch)
    highest = [2 * pad for pad in crop_padding(image_size)] + [1]
    columns = [torch.randint(0, high + 1, (num_examples,), generator=generator) for high in highest]
    return torch.stack(columns, dim=1)


def crop_flip(images: Tensor, choices: Tensor) -> Tensor:
    """Pad with zeros, crop the window at (dy, dx), and mirror it left to right if flip is 1.

    Args:
        images: uint8, shape (n, c, h, w), n at least 1.
        choices: int64, shape (n, 3), rows of `crop_flip_table`, on the same device as `images`.

    Returns:
        A new tensor of the same shape and dtype as `images`.
    """
    n, c, h, w = images.shape
    pad_h, pad_w = crop_padding((h, w))
    padded = F.pad(images, (pad_w, pad_w, pad_h, pad_h)).contiguous()
    row, plane = padded.shape[3], padded.shape[2] * padded.shape[3]
    dy, dx, flip = choices.unbind(1)
    # Row k of this view, which copies nothing, is the window whose first pixel is pixel k of `padded`.
    span = (c - 1) * plane + (h - 1) * row + w
    windows = padded.as_strided((padded.numel() - span + 1, c, h, w), (1, plane, row, 1))
    cropped = windows.index_select(0, torch.arange(n, device=images.device) * (c * plane) + dy * row + dx)
    # mask ? mirrored : cropped, bit by bit; `torch.where` with a mask per image takes several times as long on a CPU.
    mask = flip.neg().to(torch.uint8).view(n, 1, 1, 1)
    return cropped.flip(3).bitwise_xor_(cropped).bitwise_and_(mask).bitwise_xor_(cropped)
