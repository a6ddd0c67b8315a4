"""Which batch size and learning rate should I use here? Measures, and recommends. Takes the same options as train.py.

python recommend.py recommend.budget=5
"""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import front_door
from noisescale.app.studied import start_of_study


@front_door(Path(__file__).resolve().parent / "conf", start_of_study)
def main(cfg: DictConfig) -> int:
    """Make one recommendation; returns the exit status."""
    from noisescale.app.recommending import recommend

    return recommend(cfg, Path(__file__).resolve().parent / "results")


if __name__ == "__main__":
    main()
