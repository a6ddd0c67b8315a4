"""Show a training before it runs: lr, B, accumulation, noise and updates. Takes the same options as train.py.

python plan.py scheduler=cosine batch=dual
"""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import front_door


@front_door(Path(__file__).resolve().parent / "conf")
def main(cfg: DictConfig) -> int:
    """Show one plan; returns the exit status."""
    from noisescale.app.preview import preview

    return preview(cfg, Path(__file__).resolve().parent / "results")


if __name__ == "__main__":
    main()
