"""Find the critical batch size of a training: branches of several batch sizes from its checkpoints. Takes the same options as train.py.

python branches.py optimizer=sgd batch.size=32
"""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import front_door
from noisescale.app.studied import start_of_study


@front_door(Path(__file__).resolve().parent / "conf", start_of_study)
def main(cfg: DictConfig) -> int:
    """Carry out one study; returns the exit status."""
    from noisescale.app.branching import branch

    return branch(cfg)


if __name__ == "__main__":
    main()
