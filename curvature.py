"""Measure the curvature of the loss at a checkpoint, or the loss along the line from one checkpoint to another.

python curvature.py ckpt=outputs/train/<run>
"""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.checkpoint_start import start_at_checkpoint
from noisescale.app.command import front_door


@front_door(Path(__file__).resolve().parent / "conf", start_at_checkpoint)
def main(cfg: DictConfig) -> int:
    """Measure one checkpoint; returns the exit status."""
    from noisescale.app.curvature import curvature

    return curvature(cfg)


if __name__ == "__main__":
    main()
