"""Train with any learning-rate schedule and batch strategy: python train.py scheduler=cosine batch=large; see README.md and conf/."""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import front_door


@front_door(Path(__file__).resolve().parent / "conf")
def main(cfg: DictConfig) -> int:
    """Carry out one run; returns its exit status."""
    from noisescale.app.train import train

    return train(cfg, Path(__file__).resolve())


if __name__ == "__main__":
    main()
