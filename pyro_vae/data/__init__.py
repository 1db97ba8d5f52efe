"""MNIST and friends, a user's own images, tables and arrays, and the four ways to binarize images."""

from pyro_vae.data.binarization import BINARIZATIONS
from pyro_vae.data.errors import DataCorruptError, DataNotFoundError
from pyro_vae.data.image_data import ImageData
from pyro_vae.data.load import DATASETS, FILES, check_options, is_available, load_again, load_data, source_type

__all__ = [
    "BINARIZATIONS",
    "DATASETS",
    "FILES",
    "DataCorruptError",
    "DataNotFoundError",
    "ImageData",
    "check_options",
    "is_available",
    "load_again",
    "load_data",
    "source_type",
]
