"""Learning-rate schedules: epoch -> factor.

A schedule is a pure function s(t) of the clock t = examples seen / N, a float in epochs. The learning rate of a parameter group is
lr(t) = lr0 s(t), so groups keep their ratios. The clock is continuous and is read at the START of each update: update k uses
s(t_k), where t_k counts the examples that updates 0..k-1 consumed. torch's schedulers step once per epoch instead; at whole
epochs the two agree, and the tests compare them there.

Argument names are torch's where torch has the schedule; every time is in epochs. Where torch takes a learning rate (`eta_min`,
`base_lr`, `max_lr`), so do these classes, relative to `lr`, the optimizer's learning rate. With the default `lr=1` it is a factor.

A horizon (`T_max`, `total_iters`, `epochs`) of None means the whole training; `Schedule.with_horizon` fills it in.

Not to be confused with the noise schedule g(t) = s(t) g0: the batch strategies in `noisescale.plans` decide whether the learning rate or
the batch carries it out.
"""

from noisescale.schedules.decays import WSD, Constant, Cosine, Exponential, Inverse, Linear, MultiStep, Polynomial, Step
from noisescale.schedules.plateau import Plateau
from noisescale.schedules.schedule import Schedule, constant_until, milestones_passed, next_milestone, warmup_and_rest
from noisescale.schedules.warmup import WarmedUp, Warmup
from noisescale.schedules.waves import CosineRestarts, Cyclic, OneCycle

__all__ = [
    "WSD",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "Inverse",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Plateau",
    "Polynomial",
    "Schedule",
    "Step",
    "WarmedUp",
    "Warmup",
    "constant_until",
    "milestones_passed",
    "next_milestone",
    "warmup_and_rest",
]
