"""The plan of a training: the batch, the learning rate and the noise of every update. Standard library only.

Import the classes from here: `from noisescale.plans import Plan, Dual`. Import the plain functions from their modules, `noise` and
`quadratic`.
"""

from noisescale.plans.adaptive import FollowNoise, GrowOnPlateau
from noisescale.plans.duality import CyclicBatch, Dual, Matched, counterpart
from noisescale.plans.plan import Cursor, Plan, Update
from noisescale.plans.strategies import BatchChoice, BatchStrategy, Fixed, Full, Linear, MultiStep

__all__ = [
    "BatchChoice",
    "BatchStrategy",
    "Cursor",
    "CyclicBatch",
    "Dual",
    "Fixed",
    "FollowNoise",
    "Full",
    "GrowOnPlateau",
    "Linear",
    "Matched",
    "MultiStep",
    "Plan",
    "Update",
    "counterpart",
]
