"""What the y of a data set's data (x, y) is: a class label, or numbers of a shape."""

from typing import Any

import torch

from pyro_vae.data.image_data import ImageData


def conditions_of(data: ImageData) -> dict[str, Any]:
    """Return what :func:`pyro_vae.parts.make_pair` is told of y: its shape, and the number of classes of a label.

    The number of classes is one more than the largest label of the three splits.

    Args:
        data: whose datum is x alone, or x with further tensors, of which the first is y.

    Returns:
        ``y_shape`` and, where y are integers, ``num_classes``; nothing where a datum is x alone.

    >>> from pyro_vae.data import load_data
    >>> conditions_of(load_data("mnist-5k", labels=True)), conditions_of(load_data("mnist-5k"))
    ({'y_shape': (), 'num_classes': 10}, {})
    """
    splits = [split for split in (data.train, data.valid, data.test) if isinstance(split, tuple)]
    if not splits:
        return {}
    columns = [split[1] for split in splits]
    conditions: dict[str, Any] = {"y_shape": tuple(columns[0].shape[1:])}
    if columns[0].dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        conditions["num_classes"] = 1 + max(int(column.max()) for column in columns if column.numel())
    return conditions
