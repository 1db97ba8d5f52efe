import pytest
import torch

from benchmarks.raw_particles import RawParticles
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE
from pyro_vae.objectives import IWAE, DReG


@pytest.mark.parametrize(("objective", "loss_function"), [(IWAE, RawParticles.iwae), (DReG, RawParticles.dreg)])
def test_loss_and_gradients_are_the_librarys_under_the_same_noise(objective, loss_function):
    model, guide = VAE((12,), 3, (5, 4)).double(), MeanFieldGuide((12,), 3, (5, 4)).double()
    x = torch.randint(0, 2, (6, 12)).double()
    raw, ours = RawParticles.like(model, guide, 7), objective(7)
    parameters = [*model.parameters(), *guide.parameters()]
    ours.tensor_loss(model, guide, x)
    torch.manual_seed(0)
    expected = ours.tensor_loss(model, guide, x)
    torch.manual_seed(0)
    loss, surrogate = loss_function(raw, x)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(surrogate, parameters), torch.autograd.grad(expected, parameters), rtol=1e-9, atol=1e-11
    )


def test_the_two_gradients_differ_in_the_encoder_alone():
    raw = RawParticles.new(12, 3, (5,), num_particles=7)
    x = torch.randint(0, 2, (6, 12)).float()
    gradients = {}
    for part in (raw.encoder, raw.decoder):
        for loss_function in (raw.iwae, raw.dreg):
            torch.manual_seed(0)
            _, surrogate = loss_function(x)
            gradients[part, loss_function] = torch.autograd.grad(surrogate, list(part.parameters()))
    torch.testing.assert_close(gradients[raw.decoder, raw.iwae], gradients[raw.decoder, raw.dreg])
    pairs = zip(gradients[raw.encoder, raw.iwae], gradients[raw.encoder, raw.dreg], strict=True)
    assert all((a - b).abs().max() > 0.01 for a, b in pairs)
