"""The four ways from grey pixels to what a model sees.

Log-likelihoods compare only within one way: "nats" of resampled, of fixed, of thresholded and of grey
pixels are four different quantities.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def to_grey(images: Tensor) -> Tensor:
    """Pixels as float32 intensities in [0, 1]: bytes are divided by 255, floats stay as they are.

    Args:
        images: uint8 or floating point, any shape.

    Returns:
        float32, the same shape.

    >>> to_grey(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    grey = images.to(torch.float32)
    return grey if images.dtype.is_floating_point else grey / 255


def split_generator(seed: int, split: str) -> torch.Generator:
    """The random numbers that belong to one split under one seed, whatever else was drawn before.

    The split's name goes into the seed, so neither the order of the splits nor the global generator
    matters; hashing keeps seed 1's test noise apart from seed 2's training noise.
    """
    digest = hashlib.sha256(f"{split}/{seed}".encode()).digest()
    # 63 bits: what manual_seed takes without a sign.
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _draw(images: Tensor, generator: torch.Generator) -> Tensor:
    """One Bernoulli draw with the intensities as probabilities; pixels of 0 and 1 are certain."""
    return torch.bernoulli(to_grey(images), generator=generator)


def _resample(rows: Tensor) -> Tensor:
    """As `_draw`, from torch's global generator of the rows' device.

    On the CPU these are the very draws of ``torch.bernoulli``, in half its time, which counts at every step.
    """
    grey = to_grey(rows)
    return (torch.rand_like(grey) < grey).to(grey.dtype)


def _threshold(images: Tensor, _: torch.Generator) -> Tensor:
    return (to_grey(images) > 0.5).to(torch.float32)


def _grey(images: Tensor, _: torch.Generator) -> Tensor:
    return to_grey(images)


def _as_stored(images: Tensor, _: torch.Generator) -> Tensor:
    return images


@dataclass(frozen=True)
class Binarization:
    """What happens to pixels when they are loaded, and when a training step reads them.

    Attributes:
        train: stored pixels of the training split -> what `ImageData.train` holds.
        held_out: stored pixels of the validation or test split -> float32 model input.
        observe: rows of `ImageData.train` -> float32 model input.
    """

    train: Callable[[Tensor, torch.Generator], Tensor]
    held_out: Callable[[Tensor, torch.Generator], Tensor]
    observe: Callable[[Tensor], Tensor]


#: * ``"stochastic"``: every read of a training image draws each pixel afresh, with its intensity as the
#:   probability (Salakhutdinov and Murray 2008, *On the quantitative analysis of deep belief networks*,
#:   ICML; resampled in the step as in Burda, Grosse and Salakhutdinov 2015, arXiv:1509.00519). Validation
#:   and test are one draw, fixed by the seed.
#: * ``"static"``: one draw for all three splits, fixed by the seed.
#: * ``"threshold"``: one where the intensity exceeds 0.5.
#: * ``"none"``: grey intensities in [0, 1].
BINARIZATIONS: dict[str, Binarization] = {
    "stochastic": Binarization(train=_as_stored, held_out=_draw, observe=_resample),
    "static": Binarization(train=_draw, held_out=_draw, observe=to_grey),
    "threshold": Binarization(train=_threshold, held_out=_threshold, observe=to_grey),
    "none": Binarization(train=_grey, held_out=_grey, observe=to_grey),
}
