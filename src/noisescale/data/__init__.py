"""Image data sets, in memory as one uint8 tensor or streamed from files, augmented and normalised on the device, one batch at a time; and a
table for regression."""

from noisescale.data.augment import crop_flip, crop_flip_table
from noisescale.data.datamodule import ImageDataModule
from noisescale.data.diabetes import DiabetesData
from noisescale.data.digits import DigitsData
from noisescale.data.imagefolder import ImageFolderData
from noisescale.data.images import Examples, ImageDataset, Split, channel_statistics, normalize
from noisescale.data.splits import balanced_order, derived_generator, split_train_val
from noisescale.data.torchvision_sets import TorchvisionData

__all__ = [
    "DiabetesData",
    "DigitsData",
    "Examples",
    "ImageDataModule",
    "ImageDataset",
    "ImageFolderData",
    "Split",
    "TorchvisionData",
    "balanced_order",
    "channel_statistics",
    "crop_flip",
    "crop_flip_table",
    "derived_generator",
    "normalize",
    "split_train_val",
]
