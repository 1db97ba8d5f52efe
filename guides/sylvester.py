"""The guide with Sylvester flows, whose orthogonal matrices are products of Householder reflections."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import pad

from pyro_vae.distributions.flow import FlowDistribution, FlowStep
from pyro_vae.guides.amortized import AmortizedGuide
from pyro_vae.guides.householder import reflect
from pyro_vae.nn import Network
from pyro_vae.runtime.checks import check_count


def sylvester(z: Tensor, vectors: Tensor, triangles: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    r"""Move z within M orthogonal directions by M hyperbolic tangents, and return log|det| as well.

    .. math::
        z' = z + Q R \tanh(\tilde R Q^T z + b), \quad
        \log |\det| = \sum_m \log(1 + \tanh'(\cdot)_m R_{mm} \tilde R_{mm}).

    Q holds the first M columns of a product of reflections. R and R~ are upper triangular, with diagonals within (-1,
    1) by a hyperbolic tangent: their products are above -1, so that the map is invertible.

    Args:
        z: ``(*batch, d)``.
        vectors: ``(*batch, T, d)``, of the reflections.
        triangles: ``(*batch, M, M + 1)``: above the diagonal R, its diagonal too (one column to the right); on and
            below it the transpose of R~; the diagonals before their hyperbolic tangents.
        bias: ``(*batch, M)``.

    >>> z, log_det = sylvester(torch.zeros(5, 7, 3), torch.ones(7, 2, 3), torch.zeros(7, 2, 3), torch.ones(7, 2))
    >>> z.shape, log_det.shape
    (torch.Size([5, 7, 3]), torch.Size([5, 7]))
    """
    num_columns = bias.shape[-1]
    right, right_diagonal = _upper(triangles[..., 1:])
    left, left_diagonal = _upper(triangles[..., :-1].mT)
    inside = reflect(z, vectors)[..., :num_columns]
    # einsum keeps a matrix for each datum, where matmul would copy it for each sample.
    h = torch.tanh(torch.einsum("...mn,...n->...m", left, inside) + bias)
    moved = pad(torch.einsum("...mn,...n->...m", right, h), (0, z.shape[-1] - num_columns))
    # 1 + h' r, with r > -1 taken apart so that no digits cancel.
    det = h.square() + (1 - h.square()) * (1 + right_diagonal * left_diagonal)
    return z + reflect(moved, vectors.flip(-2)), det.log().sum(-1)


def _upper(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper triangle with the hyperbolic tangent of its diagonal, and that diagonal."""
    diagonal = matrix.diagonal(dim1=-2, dim2=-1).tanh()
    return matrix.triu(1) + diagonal.diag_embed(), diagonal


class SylvesterGuide(AmortizedGuide):
    r"""q(z | x): a diagonal Gaussian pushed through ``num_flows`` Sylvester flows, all from one encoder.

    .. math:: z' = z + Q R \tanh(\tilde R Q^T z + b), \quad Q = (H_1 \cdots H_T)_{:, :M}.

    Planar flows have M = 1; here ``num_columns`` directions are bent at once. The paper's Householder variant has all
    ``latent_dim`` of them. The flows have no closed inverse: the density of a sample is known as it is drawn, that of
    another z is not.

    Args:
        x_shape, latent_dim, hidden_dims, activation: as of :class:`AmortizedGuide`.
        num_flows: at least 1.
        num_columns: M, the orthogonal columns of Q, from 1 to ``latent_dim``, which it is unless given.
        num_reflections: T, at least 1.
        encoder: as of :class:`AmortizedGuide`, with features ``(*batch, 2 * latent_dim + num_flows * (T * latent_dim +
            M * (M + 1) + M))``: the locations and log scales before the flows, and of each flow the vectors of the
            reflections, the two triangles (see :func:`sylvester`) row by row, and b.

    Raises:
        ValueError: ``num_flows``, ``num_columns`` or ``num_reflections`` is out of range; from the posterior, a z is
            scored that it did not just draw.

    References:
        R. van den Berg, L. Hasenclever, J. Tomczak, M. Welling (2018), *Sylvester normalizing flows for variational
        inference*, arXiv 1803.05649.

    >>> q = SylvesterGuide((1, 28, 28), latent_dim=50, num_flows=2).posterior(torch.zeros(7, 1, 28, 28))
    >>> q.batch_shape, q.event_shape
    (torch.Size([7]), torch.Size([50]))
    """

    def __init__(
        self,
        x_shape: Sequence[int],
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        num_flows: int = 4,
        num_columns: int | None = None,
        num_reflections: int = 4,
        *,
        encoder: Network | None = None,
    ) -> None:
        check_count("SylvesterGuide", "latent_dim", latent_dim)
        for argument, value in (("num_flows", num_flows), ("num_reflections", num_reflections)):
            check_count("SylvesterGuide", argument, value)
        columns = latent_dim if num_columns is None else num_columns
        why = " (latent_dim: no more columns are orthogonal)"
        check_count("SylvesterGuide", "num_columns", columns, most=latent_dim, why=why)
        sizes = (num_reflections * latent_dim, columns * (columns + 1), columns)
        blocks = {"location": latent_dim, "log scale": latent_dim, "flows": num_flows * sum(sizes)}
        super().__init__(x_shape, latent_dim, hidden_dims, activation, encoder, blocks)
        self.num_flows = num_flows
        self.num_columns = columns
        self.num_reflections = num_reflections
        self.sizes = sizes

    def posterior(self, x: Tensor, *rest: Tensor) -> Distribution:
        """Return q(z | x) for x ``(batch, *x_shape)``: batch ``(batch,)``, event ``(latent_dim,)``."""
        loc, log_scale, flows = self.features(x, *rest)
        steps = []
        for flow in flows.unflatten(-1, (self.num_flows, -1)).unbind(-2):
            vectors, triangles, bias = flow.split(self.sizes, dim=-1)
            vectors = vectors.unflatten(-1, (self.num_reflections, self.latent_dim))
            triangles = triangles.unflatten(-1, (self.num_columns, self.num_columns + 1))
            steps.append(FlowStep(partial(sylvester, vectors=vectors, triangles=triangles, bias=bias)))
        return FlowDistribution(loc, log_scale.exp(), steps, owner="SylvesterGuide")
