"""See lr, B, accumulation, noise and updates before any training: python plan.py scheduler=cosine batch=dual; takes what train.py takes."""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import front_door


@front_door(Path(__file__).resolve().parent / "conf")
def main(cfg: DictConfig) -> int:
    """One plan; returns its exit status."""
    from noisescale.app.preview import preview

    return preview(cfg)


if __name__ == "__main__":
    main()
