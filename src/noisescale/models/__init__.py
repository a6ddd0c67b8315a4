"""Image classifiers `(n, c, h, w) -> (n, num_classes)`, and ghost batch normalisation.

Every model is built by `Model(in_channels=..., num_classes=..., image_size=(h, w), **its own options)`; the first three arguments come from
the data, the options from conf/model. It returns logits, so the loss is `cross_entropy`, not `nll_loss`. `network` builds a model from its
name and sets its memory format and compilation.
"""

from noisescale.models.building import network
from noisescale.models.convnet import CNN, VGG11
from noisescale.models.dense import MLP, Logistic
from noisescale.models.normalization import GhostBatchNorm2d
from noisescale.models.residual import ResNet9, ResNet18, WideResNet

__all__ = ["CNN", "MLP", "VGG11", "GhostBatchNorm2d", "Logistic", "ResNet9", "ResNet18", "WideResNet", "network"]
