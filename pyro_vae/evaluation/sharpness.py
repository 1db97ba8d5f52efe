"""Sharpness of images: the variance of their Laplacian, and its ratio to the data's."""

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.latents.data_means import reconstruction_means
from pyro_vae.evaluation.result import Result
from pyro_vae.protocols import Program
from pyro_vae.runtime.random_state import seeded
from pyro_vae.runtime.wording import count

SMALLEST = 3
"""Pixels along each side of the Laplacian."""


def sharpness(images: Tensor) -> Tensor:
    r"""Return the variance of the Laplacian of each image: high for sharp edges, low for blurred ones.

    .. math::
        L_{ij} = x_{i-1,j} + x_{i+1,j} + x_{i,j-1} + x_{i,j+1} - 4 x_{ij}, \qquad
        \frac{1}{|P|} \sum_{ij \in P} (L_{ij} - \bar L)^2

    P are the pixels with four neighbours; channels are averaged. The variance grows with the square of the contrast, so
    that only images on the same scale compare. Noise counts as sharpness, as edges do.

    Args:
        images: ``(N, channels, height, width)``, at least 3 pixels high and wide.

    Returns:
        Tensor ``(N,)``, float64, on the CPU.

    Raises:
        ValueError: images have another shape, there are none, or one is not finite.

    References:
        J. Pech-Pacheco, G. Cristobal, J. Chamorro-Martinez, J. Fernandez-Valdivia (2000), *Diatom autofocusing in
        brightfield microscopy: a comparative study*, ICPR. Here L keeps its sign, and its kernel is not normalised.

    >>> import torch
    >>> dot = torch.zeros(1, 1, 5, 5)
    >>> dot[0, 0, 2, 2] = 1
    >>> sharpness(dot).item()  # L is -4 once, 1 four times, 0 four times: mean 0, mean square 20 / 9
    2.2222222222222223
    """
    _check("sharpness: images", images)
    x = images.detach().double().cpu()
    middle = x[..., 1:-1, 1:-1]
    laplacian = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:] - 4 * middle
    return laplacian.flatten(2).var(-1, correction=0).mean(1)


@dataclass(frozen=True, eq=False, kw_only=True)
class SharpnessRatio(Result):
    """What :func:`sharpness_ratio` returns."""

    columns = MappingProxyType({"sharpness_ratio": ""})

    images: Tensor = field(repr=False)
    """Sharpness of each image, ``(N,)``."""
    reference: Tensor = field(repr=False)
    """Sharpness of each image of the data, ``(M,)``; M = N where they are paired."""
    paired: bool

    @property
    def ratio(self) -> float:
        """Mean sharpness of the images over that of the data: 1 where they are as sharp, below where blurred."""
        return (self.images.mean() / self.reference.mean()).item()

    @property
    def standard_error(self) -> float:
        r"""Standard error of the ratio R over images, to first order (delta method).

        .. math:: \bar b^{-2} \, \mathrm{Var}(\bar a - R \bar b)

        The variance is that of the mean of a_i - R b_i where image i is of datum i, else the sum of the two means'.
        """
        if self.paired:
            variance = (self.images - self.ratio * self.reference).var() / len(self.images)
        else:
            variance = self.images.var() / len(self.images)
            variance = variance + self.ratio**2 * self.reference.var() / len(self.reference)
        return (variance.sqrt() / self.reference.mean()).item()

    @property
    def estimates(self) -> dict[str, Estimate]:
        r"""The ratio, where image i is of datum i; else there is no quantity of a datum.

        Each datum has :math:`R + (a_i - R b_i) / \bar b`, whose mean is R and whose error over data is
        :attr:`standard_error`. The Monte Carlo error, over other draws of z, is unknown.
        """
        if not self.paired:
            return {}
        per_datum = self.ratio + (self.images - self.ratio * self.reference) / self.reference.mean()
        unknown = torch.full_like(per_datum, math.nan)
        return {"sharpness_ratio": Estimate(per_datum, unknown, unit="ratio", datum=self.datum)}

    def facts(self) -> dict[str, Any]:
        """Return the two means, and for unpaired images the ratio and its error."""
        unpaired = {"sharpness_ratio": self.ratio, "sharpness_ratio_standard_error": self.standard_error}
        return ({} if self.paired else unpaired) | {
            "sharpness": self.images.mean().item(),
            "data_sharpness": self.reference.mean().item(),
            "paired": self.paired,
            "num_images": len(self.images),
            "num_data": len(self.reference),
        }

    def __str__(self) -> str:
        kind = "paired, Monte Carlo s.e. unknown" if self.paired else "unpaired"
        return (
            f"sharpness {self.ratio:.3f} of the data's (s.e. {self.standard_error:.2g}, {kind}; variance of the "
            f"Laplacian {self.images.mean():.3g} against {self.reference.mean():.3g}; "
            f"{count(len(self.images), 'image')})"
        )


def sharpness_ratio(images: Tensor, data: Tensor, *, paired: bool = True) -> SharpnessRatio:
    """Compare the sharpness of reconstructions, or of samples, with that of data.

    Images and data must be of one kind. The mean of p(x | z) is grey and compares with grey data; compared with
    binarized data, whose noise counts as sharpness, it looks more blurred than it is.

    Args:
        images: reconstructions or samples ``(N, channels, height, width)``.
        data: ``(M, channels, height, width)``, on the same scale.
        paired: image i is the reconstruction of datum i. False for samples, of which there may be more or fewer.

    Raises:
        ValueError: there are fewer than two of either, shapes differ, a value is not finite, or all data are flat.
    """
    for name, values in (("images", images), ("data", data)):
        _check(f"sharpness_ratio: {name}", values)
        if len(values) < 2:
            raise ValueError(
                f"sharpness_ratio: {name} must be at least 2, for there to be a standard error; got {len(values)}."
            )
    if images.shape[1:] != data.shape[1:] or (paired and len(images) != len(data)):
        raise ValueError(
            f"sharpness_ratio: images and data must have one shape; got {tuple(images.shape)} and "
            f"{tuple(data.shape)}. Where image i is not of datum i, pass paired=False: their numbers may differ then."
        )
    reference = sharpness(data)
    if not reference.mean() > 0:
        raise ValueError(
            "sharpness_ratio: the Laplacian of all data is constant (flat images), so that there is no ratio to it. "
            "Check what was passed as data."
        )
    return SharpnessRatio(images=sharpness(images), reference=reference, paired=paired)


def reconstruction_sharpness(model: Program, guide: Program, x: Any, *, seed: int | None = None) -> SharpnessRatio:
    """Compare the sharpness of reconstructions with that of the data: the ratio is below 1 where they are blurred.

    A reconstruction is the mean of p(x | z) at one draw z ~ q(z | x). It is grey, and binarized data are sharper by
    their noise alone: ratios of two models of such data compare with one another, but not with 1.

    Args:
        model: p(x, z).
        guide: q(z | x).
        x: images ``(N, channels, height, width)``, or a tuple of all positional arguments that starts with them.
        seed: of the draws; None draws from the global generator.

    Raises:
        ValueError: as for :func:`sharpness_ratio`; or the model does not observe one site of the data's shape, whose
            law has a mean.
    """
    images = x[0] if isinstance(x, tuple) else x
    with seeded(seed):
        means = reconstruction_means(model, guide, x)
    return sharpness_ratio(means, images)


def _check(what: str, images: Tensor) -> None:
    if images.ndim != 4 or min(images.shape[2:]) < SMALLEST:
        raise ValueError(
            f"{what} must have shape (N, channels, height, width) with at least {SMALLEST} pixels along each side; "
            f"got {tuple(images.shape)}. Reshape flat images first."
        )
    if images.numel() == 0:
        raise ValueError(f"{what}: there are none (shape {tuple(images.shape)}).")
    if not images.isfinite().all():
        bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten()
        raise ValueError(
            f"{what}: {len(bad)} of {len(images)} images have values that are NaN or infinite (first: "
            f"{int(bad[0])}). Leave them out."
        )
