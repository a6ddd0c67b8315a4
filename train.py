"""Train with any schedule and any batch size: python train.py scheduler=cosine batch=large; see README.md and conf/."""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import front_door


@front_door(Path(__file__).resolve().parent / "conf")
def main(cfg: DictConfig) -> int:
    """One run; returns its exit status."""
    from noisescale.app.train import train

    return train(cfg, Path(__file__).resolve())


if __name__ == "__main__":
    main()
