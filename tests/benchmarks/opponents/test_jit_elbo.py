import pyro
import torch
from pyro.infer import Trace_ELBO

from benchmarks.opponents.jit_elbo import JitStep
from benchmarks.training import LEARNING_RATE
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE


def pair(seed):
    torch.manual_seed(seed)
    return VAE((12,), 3, (5,)), MeanFieldGuide((12,), 3, (5,))


def test_steps_are_those_of_trace_elbo_under_the_same_noise():
    x = torch.randint(0, 2, (4, 12)).float()
    step = JitStep(*pair(0), x)
    model, guide = pair(0)
    parameters = [*model.parameters(), *guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    assert sum(p.numel() for p in step.parameters) == sum(p.numel() for p in parameters)
    for seed in range(5):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        loss = Trace_ELBO().loss_and_grads(model, guide, x)
        optimizer.step()
        torch.manual_seed(seed)
        with step.store.scope(step.state):
            # A step less or another learning rate moves the loss by 1e-3.
            torch.testing.assert_close(step(x), loss, rtol=1e-5, atol=0)


def test_its_parameters_stay_out_of_the_store_of_others():
    JitStep(*pair(0), torch.zeros(4, 12))
    assert len(pyro.get_param_store()) == 0
