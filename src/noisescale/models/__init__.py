"""Networks, ghost batch normalisation, and the LightningModules that train them.

Every network is built by `Model(input_shape=..., num_outputs=..., **its own options)`; the first two arguments come from the data, the
options from conf/model. It turns inputs (n, *input_shape) into outputs (n, num_outputs), which are logits if the targets are classes, so
that the loss is `cross_entropy`, not `nll_loss`. A task, such as `Classifier` or `Regressor`, is the loss and the metrics.
"""

from noisescale.models.classifier import Classifier
from noisescale.models.convnet import CNN, VGG11
from noisescale.models.dense import MLP, Logistic
from noisescale.models.normalization import GhostBatchNorm2d
from noisescale.models.regressor import Regressor
from noisescale.models.residual import ResNet9, ResNet18, WideResNet
from noisescale.models.tasks import Task

__all__ = [
    "CNN",
    "MLP",
    "VGG11",
    "Classifier",
    "GhostBatchNorm2d",
    "Logistic",
    "Regressor",
    "ResNet9",
    "ResNet18",
    "Task",
    "WideResNet",
]
