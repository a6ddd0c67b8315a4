"""What will be done: for every update of a training its batch, its learning rate and its noise. Standard library only.

Import the classes from here: `from noisescale.plans import Plan, Dual`. The functions of numbers stay in their files, `noise` and
`quadratic`.
"""

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
    "Full",
    "Linear",
    "Matched",
    "MultiStep",
    "Plan",
    "Update",
    "counterpart",
]
