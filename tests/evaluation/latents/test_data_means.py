"""Means of p(x | z) of programs with several latent sites: what is drawn, what moves, what is held and what follows."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.testing import assert_close

from pyro_vae import plots
from pyro_vae.evaluation import active_units
from pyro_vae.evaluation.latents.data_means import prior_means, reconstruction_means, traverse

QUANTILES = torch.tensor([0.1, 0.5, 0.9])

X = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]]).double()


def wide(shape):
    return torch.zeros(shape).double()


def layers(x):
    """Each pixel is the bottom's unit, which is twice the top's plus noise."""
    with pyro.plate("data", len(x), dim=-1):
        top = pyro.sample("top", dist.Normal(wide(2), 1.0).to_event(1))
        bottom = pyro.sample("bottom", dist.Normal(2 * top, 0.1).to_event(1))
        pyro.sample("pixels", dist.Normal(bottom, 0.01).to_event(1), obs=x)


def upwards(x):
    with pyro.plate("data", len(x), dim=-1):
        bottom = pyro.sample("bottom", dist.Normal(x, 0.01).to_event(1))
        pyro.sample("top", dist.Normal(bottom / 2, 0.01).to_event(1))


def test_reconstructions_follow_the_guide():
    # A guide with a standard deviation of 0.01: six draws lie within five of them but for one time in 300 000.
    assert_close(reconstruction_means(layers, upwards, X), X, rtol=0, atol=0.05)


def test_draws_from_the_prior_are_ancestral():
    draws = prior_means(layers, X[:1], 4000)
    assert draws.shape == (4000, 2)
    # Of variance 4 + 0.01, whose estimate has a standard error of sqrt(2 / 4000) of that; four of them.
    assert_close(draws.var(0), torch.full((2,), 4.01).double(), rtol=4 * (2 / 4000) ** 0.5, atol=0)


def test_the_bottom_moves_alone_and_follows_the_top():
    moved = traverse(layers, upwards, X, [1, 2], QUANTILES, num_samples=400)
    assert moved.units == ("bottom[1]", "top[0]")
    normal = torch.special.ndtri(QUANTILES).double()
    # Quantiles of 10 000 draws: standard error sqrt(p (1 - p) / n) / density, at most 0.018 of the law's sd; 4 of them.
    assert_close(moved.means[0, :, 1], normal * 4.01**0.5, rtol=0, atol=0.072 * 2.01)
    assert_close(moved.means[0, :, 0], X[0, 0].expand(3), rtol=0, atol=0.01)
    assert_close(moved.means[1, :, 0], 2 * normal, rtol=0, atol=0.144)
    # The other number of the bottom follows the other number of the top, which is held at the guide's mean.
    assert_close(moved.means[1, :, 1], X[0, 1].expand(3), rtol=0, atol=0.01)


def many_shapes(x):
    """A scalar, a matrix, a positive site, a simplex and a category."""
    with pyro.plate("data", len(x), dim=-1):
        scalar = pyro.sample("scalar", dist.Normal(wide(()), 1.0))
        matrix = pyro.sample("matrix", dist.Normal(wide((2, 2)), 1.0).to_event(2))
        scale = pyro.sample("scale", dist.LogNormal(wide(()), 0.5))
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2).double()))
        category = pyro.sample("category", dist.Categorical(torch.ones(3).double()))
        loc = scalar.unsqueeze(-1) + matrix.sum(-1) + scale.unsqueeze(-1) * shares + category.unsqueeze(-1)
        pyro.sample("pixels", dist.Normal(loc, 1.0).to_event(1), obs=x)


def guide_of_many_shapes(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("category", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).double().expand(len(x), 3)))
        pyro.sample("shares", dist.Dirichlet(torch.ones(2).double() + x.exp()))
        pyro.sample("scale", dist.LogNormal(x[:, 0], 0.5))
        pyro.sample("matrix", dist.Normal(x.unsqueeze(-1).expand(-1, 2, 2), 1.0).to_event(2))
        pyro.sample("scalar", dist.Normal(x[:, 1], 1.0))


def test_sites_of_any_shape_move_but_for_those_that_cannot():
    units = active_units(guide_of_many_shapes, X, num_samples=20).units
    matrix = [f"matrix[{index}]" for index in range(4)]
    assert units == ("category[0]", "shares[0]", "shares[1]", "scale[0]", *matrix, "scalar[0]")
    moved = traverse(many_shapes, guide_of_many_shapes, X, list(range(9)), QUANTILES)
    assert moved.units == tuple(unit for unit in units if not unit.startswith("shares"))
    assert list(moved.left_out) == ["shares[0]", "shares[1]"]
    assert moved.left_out["shares[0]"] == (
        "a value of site 'shares' lies in Simplex(), which moving one number alone would leave"
    )
    rows = dict(zip(moved.units, moved.means, strict=True))
    # What a category adds to each pixel, and what one number of the matrix adds to the pixel of its row.
    steps = rows["category[0]"] - rows["category[0]"][:1]
    assert_close(steps, torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).double())
    steps = rows["matrix[2]"] - rows["matrix[2]"][:1]
    assert (steps[:, 0] == 0).all()
    assert (steps[1:, 1] > 1).all()


def test_a_figure_of_what_cannot_move_is_refused():
    with pytest.raises(ValueError, match=r"moved by itself. shares"):
        plots.pair_traversal(many_shapes, guide_of_many_shapes, X, [1, 2])


def test_a_model_that_observes_something_else_is_named():
    def halves(x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(wide(2), 1.0).to_event(1))
            pyro.sample("half", dist.Normal(top[:, 0], 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match=r"\(3, 2\).*observes half \(3,\)"):
        prior_means(halves, X, 3)
