"""The four ways to binarize grey pixels.

Log-likelihoods compare only within one way: nats of resampled, of fixed, of thresholded and of grey pixels are four
different quantities.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def to_grey(images: Tensor) -> Tensor:
    """Return pixels as float32 intensities in [0, 1]: bytes are divided by 255, floats stay as they are.

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
    """Return a generator that depends on the seed and on the split's name alone.

    Neither the order of the splits nor the global generator matters. Hashing makes the noise of different seeds and
    splits independent.
    """
    digest = hashlib.sha256(f"{split}/{seed}".encode()).digest()
    # 63 bits: what manual_seed takes without a sign.
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _draw(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each pixel once, with its intensity as the probability of 1."""
    return torch.bernoulli(to_grey(images), generator=generator)


def _resample(rows: Tensor) -> Tensor:
    """Draw as `_draw` does, from torch's global generator of the rows' device.

    On the CPU these are the very draws of ``torch.bernoulli``, in half its time, which counts at every step.
    """
    grey = to_grey(rows)
    return (torch.rand_like(grey) < grey).to(grey.dtype)


@dataclass(frozen=True)
class Binarization:
    """What happens to pixels when they are loaded, and when a training step reads them.

    Attributes:
        load: from the stored pixels of a split, and its generator, to float32 model input.
        observe: from rows of `ImageData.train` to float32 model input.
        resamples: whether `ImageData.train` holds the stored pixels, from which `observe` draws; if not, it holds what
            `load` returns.
    """

    load: Callable[[Tensor, torch.Generator], Tensor]
    observe: Callable[[Tensor], Tensor] = to_grey
    resamples: bool = False


#: * ``"stochastic"``: every read of a training image draws each pixel afresh, with its intensity as the
#:   probability (Salakhutdinov and Murray 2008, *On the quantitative analysis of deep belief networks*,
#:   ICML; resampled in the step as in Burda, Grosse and Salakhutdinov 2015, arXiv:1509.00519). Validation
#:   and test are one draw, fixed by the seed.
#: * ``"static"``: one draw for all three splits, fixed by the seed.
#: * ``"threshold"``: one where the intensity exceeds 0.5.
#: * ``"none"``: grey intensities in [0, 1].
BINARIZATIONS: dict[str, Binarization] = {
    "stochastic": Binarization(_draw, observe=_resample, resamples=True),
    "static": Binarization(_draw),
    "threshold": Binarization(lambda images, _: (to_grey(images) > 0.5).to(torch.float32)),
    "none": Binarization(lambda images, _: to_grey(images)),
}
