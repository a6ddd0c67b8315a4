"""Find learning rates to start from: a short training whose learning rate rises. Takes the same options as train.py.

python range_test.py batch.size=64
"""

from pathlib import Path

from omegaconf import DictConfig

from noisescale.app.command import front_door
from noisescale.app.studied import start_of_study


@front_door(Path(__file__).resolve().parent / "conf", start_of_study)
def main(cfg: DictConfig) -> int:
    """Carry out one test; returns the exit status."""
    from noisescale.app.range_testing import carry_out_range_test

    return carry_out_range_test(cfg)


if __name__ == "__main__":
    main()
