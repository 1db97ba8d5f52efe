"""Layers of networks in plain numpy, without torch."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def convolve(x, weight, bias=None, stride=1, padding=0):
    """sum_{c, i, j} w[o, c, i, j] x[c, s a + i - p, s b + j - p] + bias[o] for one image x[c, height, width]."""
    kernel = weight.shape[-2:]
    windows = sliding_window_view(np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2)), kernel, axis=(1, 2))
    out = np.einsum("cabij,ocij->oab", windows[:, ::stride, ::stride], weight)
    return out if bias is None else out + bias[:, None, None]


def spread(x, weight, bias, stride, padding, size):
    """The transposed convolution: each pixel adds its kernel to the output, which is then cut to `size`."""
    _, n_out, *kernel = weight.shape
    out = np.zeros((n_out, stride * x.shape[1] + kernel[0] + stride, stride * x.shape[2] + kernel[1] + stride))
    for a, b in np.ndindex(x.shape[1:]):
        taps = np.einsum("c,coij->oij", x[:, a, b], weight)
        out[:, stride * a : stride * a + kernel[0], stride * b : stride * b + kernel[1]] += taps
    out = out[:, padding : padding + size[0], padding : padding + size[1]]
    return out if bias is None else out + bias[:, None, None]


def linear(x, layer):
    return array(layer.weight) @ x + array(layer.bias)


def relu(x):
    return np.maximum(x, 0)


def gate(x):
    first, second = np.split(x, 2)
    return first / (1 + np.exp(-second))


def group_norm(x, groups, weight, bias):
    parts = x.reshape(groups, -1)
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-5)
    return parts.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]
