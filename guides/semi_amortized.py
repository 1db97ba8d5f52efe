"""The diagonal Gaussian guide that goes on from where its encoder starts."""

from collections.abc import Iterable, Sequence

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.nn import Network
from pyro_vae.programs.modules import local_params
from pyro_vae.programs.sites import LATENT
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, check_number

ROUNDINGS = 100
"""Of an ELBO, by which a step may seem to lower it: near its top, up and down are told apart by rounding alone."""


class SemiAmortizedGuide(AmortizedGuide):
    r"""q(z | x) = N(loc_T, diag(scale_T^2)): the encoder's loc_0, scale_0, then T steps up the datum's own ELBO.

    With :math:`g = \nabla_{loc} E_q[\log p(x, z)]` and :math:`h_d = -E_q[\partial_d^2 \log p(x, z)]`, a step of
    size :math:`\eta` follows the natural gradient:

    .. math::
        scale_{t+1}^{-2} = (1 - \eta)\, scale_t^{-2} + \eta \max(h, 0), \qquad
        loc_{t+1} = loc_t + \eta\, scale_{t+1}^2\, g

    so that its size needs no tuning to the posterior's. Where the datum's ELBO would fall, the step is not taken,
    and the next ones are half as long. The expectations are means over pairs :math:`loc \pm scale \cdot \epsilon`
    with fixed signs :math:`\epsilon` instead of noise, rows of a Hadamard matrix: q is a function of x. One pair is
    exact where log p(x, z) is quadratic in z without cross terms; as many as the matrix has rows, for any polynomial
    in z up to the third degree. h comes from the gradient of the log scales, not from second derivatives.

    The model is no part of the guide: neither its parameters nor its state are the guide's.
    ``posterior`` must not be called inside a plate of dim -1, where the model has its own.

    Args:
        x_shape, hidden_dims, activation: as of :class:`AmortizedGuide`.
        latent_dim: d, dimension of z.
        num_steps: T; 0 is :class:`MeanFieldGuide`.
        step_size: :math:`\eta`, above 0 and below 1.
        num_pairs: pairs of points a step, from 1 to the least power of two that is no less than d.
        differentiable: whether gradients go through the steps, to encoder and model; otherwise what the steps add
            is a constant, and the encoder's gradient is taken where they end.
        model: p(x, z), the Pyro program that the guide is used with; its plate over the data has dim -1.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, 2 * d)``: the locations, and the log scales.

    Raises:
        ValueError: a setting is out of range, or the model does not sample z alone and observe something.

    References:
        Y. Kim, S. Wiseman, A. Miller, D. Sontag, A. Rush (2018), *Semi-amortized variational autoencoders*,
        arXiv 1802.02550; J. Marino, Y. Yue, S. Mandt (2018), *Iterative amortized inference*, arXiv 1807.09356
        (encoders that are refined); M. Khan et al. (2018), *Fast and scalable Bayesian deep learning by
        weight-perturbation in Adam*, arXiv 1806.04854 (the natural-gradient step).

    >>> import torch
    >>> from pyro_vae.models import VAE
    >>> guide = SemiAmortizedGuide((1, 28, 28), latent_dim=50, num_steps=2, model=VAE((1, 28, 28), latent_dim=50))
    >>> q = guide.posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    signs: Tensor

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        num_steps: int = 5,
        step_size: float = 0.5,
        num_pairs: int = 1,
        differentiable: bool = True,
        *,
        model: Program,
        encoder: Network | None = None,
    ) -> None:
        check_count("SemiAmortizedGuide", "latent_dim", latent_dim)
        check_count("SemiAmortizedGuide", "num_steps", num_steps, least=0)
        check_number("SemiAmortizedGuide", "step_size", step_size)
        if not 0 < step_size < 1:
            raise ValueError(f"SemiAmortizedGuide: step_size must be above 0 and below 1; got {step_size}.")
        most, why = 1 << (latent_dim - 1).bit_length(), f" (a power of two, for latent_dim = {latent_dim})"
        check_count("SemiAmortizedGuide", "num_pairs", num_pairs, most=most, why=why)
        if not callable(model):
            raise ValueError(f"SemiAmortizedGuide: model must be a Pyro program; got {type(model).__name__}.")
        blocks = {"location": latent_dim, "log scale": latent_dim}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_steps = num_steps
        self.step_size = step_size
        self.num_pairs = num_pairs
        self.differentiable = differentiable
        # In a tuple, where torch does not look for modules.
        self._models = (model,)
        rows = [[(-1.0) ** (row & column).bit_count() for column in range(latent_dim)] for row in range(num_pairs)]
        self.register_buffer("signs", torch.tensor(rows), persistent=False)

    @property
    def model(self) -> Program:
        """p(x, z), the program that the steps climb."""
        return self._models[0]

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale = self.features(x, *rest)
        if self.num_steps > 0:
            loc, log_scale = self._ascend((x, *rest), loc, log_scale)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def _ascend(self, data: tuple[Tensor, ...], *start: Tensor) -> tuple[Tensor, ...]:
        """Return location and log scale ``(*batch, latent_dim)`` after the steps."""
        graph = self.differentiable and torch.is_grad_enabled()
        batch_dims = data[0].ndim - len(self.x_shape)
        rows = [tensor.flatten(0, batch_dims - 1) for tensor in data]
        rows = [tensor.expand(2 * self.num_pairs, *tensor.shape).flatten(0, 1) for tensor in rows]
        # No handler around the guide sees the inner runs.
        with poutine.block(), local_params(*self._models), torch.enable_grad():
            here = self._points((part.flatten(0, -2) for part in start), graph)
            step = torch.full_like(here[0][:, :1], self.step_size)
            elbo = self._elbo(rows, *here)
            gradient = torch.autograd.grad(elbo.sum(), here, create_graph=graph)
            for left in reversed(range(self.num_steps)):
                there = self._points(_natural_step(here, gradient, step), graph)
                new_elbo = self._elbo(rows, *there)
                slack = ROUNDINGS * torch.finfo(elbo.dtype).eps * elbo.abs()
                taken = (new_elbo >= elbo - slack).unsqueeze(-1)
                if left:
                    further = torch.autograd.grad(new_elbo.sum(), there, create_graph=graph)
                    gradient = tuple(torch.where(taken, new, old) for new, old in zip(further, gradient, strict=True))
                    elbo = torch.where(taken.squeeze(-1), new_elbo, elbo)
                    step = torch.where(taken, step, step / 2)
                here = tuple(torch.where(taken, new, old) for new, old in zip(there, here, strict=True))
        end = tuple(part.reshape(first.shape) for part, first in zip(here, start, strict=True))
        if graph:
            return end
        return tuple(first + (part - first).detach() for part, first in zip(end, start, strict=True))

    def _points(self, parts: Iterable[Tensor], graph: bool) -> tuple[Tensor, ...]:
        """Return tensors that a gradient can be taken of, and that keep their own history if asked to.

        As views of their own: the new location is made of the new scale, which must not enter the partial gradient.
        """
        return tuple(
            part.view_as(part) if graph and part.requires_grad else part.detach().requires_grad_() for part in parts
        )

    def _elbo(self, data: list[Tensor], loc: Tensor, log_scale: Tensor) -> Tensor:
        """Return the ELBO up to a constant, ``(rows,)``, for data repeated once for each point."""
        offsets = torch.cat([self.signs, -self.signs]).to(loc).unsqueeze(1)
        points = (loc + log_scale.exp() * offsets).flatten(0, 1)
        return self._log_joint(data, points).reshape(len(offsets), len(loc)).mean(0) + log_scale.sum(-1)

    def _log_joint(self, data: list[Tensor], z: Tensor) -> Tensor:
        """Return log p(x, z), ``(rows,)``, without the scales of a loss."""
        run = poutine.trace(poutine.condition(*self._models, {LATENT: z})).get_trace(*data)
        sites = {name: s for name, s in prune_subsample_sites(run).nodes.items() if s["type"] == "sample"}
        others = {name for name, site in sites.items() if not site["is_observed"]}
        if LATENT not in sites or len(sites) < 2 or others:
            listed = ", ".join(f"{name}{'' if name in {LATENT, *others} else ' (observed)'}" for name in sites)
            raise ValueError(
                f"SemiAmortizedGuide: the model must sample {LATENT!r} alone and observe something; its sites are "
                f"{listed or 'none'}."
            )
        total = torch.zeros_like(z[:, 0])
        for site in sites.values():
            log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])
            total = total + log_prob.reshape(-1, len(z)).sum(0)
        return total


def _natural_step(here: Sequence[Tensor], gradient: Sequence[Tensor], step: Tensor) -> tuple[Tensor, Tensor]:
    """Return location and log scale after one step along the gradient of the ELBO in both."""
    (loc, log_scale), (in_loc, in_log_scale) = here, gradient
    # The ELBO's gradient in log_scale is 1 - scale^2 h. Its precision never falls below 1 - step of what it was.
    log_scale = log_scale - 0.5 * torch.log(1 - step + step * (1 - in_log_scale).relu())
    return loc + step * (2 * log_scale).exp() * in_loc, log_scale
