"""Pyro's own example programs, written afresh in their authors' shape, weigh as an independent computation says."""

import logging
import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn
from torch.testing import assert_close

from pyro_vae import elbo_terms, log_likelihood, log_weights
from pyro_vae.evaluation.over_data.run_sizes import run_sizes

EXACT = {"rtol": 1e-8, "atol": 1e-8}


@pytest.fixture(autouse=True)
def double():
    """The programs make their constants in the default dtype, as their authors do."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - torch.as_tensor(scale).log() - 0.5 * math.log(2 * math.pi)


def bernoulli(x, p):
    return x * p.log() + (1 - x) * (1 - p).log()


# ---------------------------------------------------------------- the variational autoencoder


class Encoder(nn.Module):
    def __init__(self, pixels, z_dim, hidden):
        super().__init__()
        self.pixels = pixels
        self.fc1 = nn.Linear(pixels, hidden)
        self.fc21 = nn.Linear(hidden, z_dim)
        self.fc22 = nn.Linear(hidden, z_dim)
        self.softplus = nn.Softplus()

    def forward(self, x):
        hidden = self.softplus(self.fc1(x.reshape(-1, self.pixels)))
        return self.fc21(hidden), torch.exp(self.fc22(hidden))


class Decoder(nn.Module):
    def __init__(self, pixels, z_dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(z_dim, hidden)
        self.fc21 = nn.Linear(hidden, pixels)
        self.softplus = nn.Softplus()

    def forward(self, z):
        return torch.sigmoid(self.fc21(self.softplus(self.fc1(z))))


class ExampleVAE(nn.Module):
    def __init__(self, pixels=36, z_dim=3, hidden=5):
        super().__init__()
        self.encoder = Encoder(pixels, z_dim, hidden)
        self.decoder = Decoder(pixels, z_dim, hidden)
        self.pixels, self.z_dim = pixels, z_dim

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder.forward(z)
            pyro.sample(
                "obs",
                dist.Bernoulli(loc_img, validate_args=False).to_event(1),
                obs=x.reshape(-1, self.pixels),
            )
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder.forward(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))

    def by_hand(self, x, z):
        loc, scale = self.encoder(x)
        x = x.reshape(-1, self.pixels)
        return (normal(z, 0.0, 1.0) - normal(z, loc, scale)).sum(-1) + bernoulli(x, self.decoder(z)).sum(-1)


def test_the_vae_example(recorder, caplog):
    vae, x = ExampleVAE(), torch.rand(7, 1, 6, 6).round()
    guide = recorder(vae.guide)
    found = log_weights(vae.model, guide, x, num_samples=5)
    z = guide.values["latent"]
    assert z.shape == (5, 7, 3)
    assert_close(found, vae.by_hand(x, z), **EXACT)
    assert not caplog.records  # it vectorizes


def test_two_vae_examples_in_one_process_keep_their_own_parameters(recorder):
    """`pyro.module("decoder", ...)` has the first one's parameters in the store when the second one runs."""
    x = torch.rand(7, 1, 6, 6).round()
    for _ in range(2):
        vae = ExampleVAE()
        guide = recorder(vae.guide)
        found = log_weights(vae.model, guide, x)
        assert_close(found, vae.by_hand(x, guide.values["latent"]), **EXACT)


def test_the_vae_examples_evidence_by_quadrature():
    """With one latent, p(x) is an integral over a line; 1000 weights agree within 4 standard errors each."""
    vae, x = ExampleVAE(z_dim=1), torch.rand(10, 1, 6, 6).round()
    line = torch.linspace(-12, 12, 4001)[:, None]
    with torch.no_grad():
        log_joint = bernoulli(x.reshape(-1, 1, 36), vae.decoder(line)).sum(-1) + normal(line, 0.0, 1.0)[:, 0]
    evidence = log_joint.logsumexp(1) + math.log(24 / 4000)
    found = log_likelihood(vae.model, vae.guide, x, 1000, seed=0)
    assert ((found.per_datum - evidence).abs() < 4 * found.standard_errors + 1e-9).all()
    terms = elbo_terms(vae.model, vae.guide, x, 1000, seed=0)
    assert (terms.elbo.per_datum < evidence + 4 * terms.elbo.standard_errors).all()


# ---------------------------------------------------------------- the conditional VAE


class CVAEEncoder(nn.Module):
    def __init__(self, z_dim, hidden, pixels):
        super().__init__()
        self.pixels = pixels
        self.fc1 = nn.Linear(pixels, hidden)
        self.fc31 = nn.Linear(hidden, z_dim)
        self.fc32 = nn.Linear(hidden, z_dim)
        self.relu = nn.ReLU()

    def forward(self, x, y):
        xc = x.clone()
        xc[x == -1] = y[x == -1]
        xc = xc.view(-1, self.pixels)
        hidden = self.relu(self.fc1(xc))
        return self.fc31(hidden), torch.exp(self.fc32(hidden))


class CVAEDecoder(nn.Module):
    def __init__(self, z_dim, hidden, pixels):
        super().__init__()
        self.fc1 = nn.Linear(z_dim, hidden)
        self.fc2 = nn.Linear(hidden, pixels)
        self.relu = nn.ReLU()

    def forward(self, z):
        return torch.sigmoid(self.fc2(self.relu(self.fc1(z))))


class ExampleCVAE(nn.Module):
    def __init__(self, pixels=16, z_dim=2, hidden=6):
        super().__init__()
        self.pixels = pixels
        self.baseline_net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, pixels), nn.Sigmoid())
        self.prior_net = CVAEEncoder(z_dim, hidden, pixels)
        self.generation_net = CVAEDecoder(z_dim, hidden, pixels)
        self.recognition_net = CVAEEncoder(z_dim, hidden, pixels)

    def model(self, xs, ys=None):
        pyro.module("generation_net", self)
        batch_size = xs.shape[0]
        with pyro.plate("data"):
            with torch.no_grad():
                y_hat = self.baseline_net(xs).view(xs.shape)
            prior_loc, prior_scale = self.prior_net(xs, y_hat)
            zs = pyro.sample("z", dist.Normal(prior_loc, prior_scale).to_event(1))
            loc = self.generation_net(zs)
            if ys is not None:
                mask_loc = loc[(xs == -1).view(-1, self.pixels)].view(batch_size, -1)
                mask_ys = ys[xs == -1].view(batch_size, -1)
                pyro.sample("y", dist.Bernoulli(mask_loc, validate_args=False).to_event(1), obs=mask_ys)
            else:
                pyro.deterministic("y", loc.detach())
            return loc

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                y_hat = self.baseline_net(xs).view(xs.shape)
                loc, scale = self.prior_net(xs, y_hat)
            else:
                loc, scale = self.recognition_net(xs, ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def by_hand(self, xs, ys, z):
        """The weights ``(batch,)`` of z, datum by datum; the missing pixels are the last three quarters."""
        weights = []
        for x, y, z_n in zip(xs.flatten(1), ys.flatten(1), z, strict=True):
            missing = x == -1
            p_in = torch.where(missing, self.baseline_net[1:](x), x)
            p_h = self.prior_net.fc1(p_in).relu()
            q_h = self.recognition_net.fc1(torch.where(missing, y, x)).relu()
            log_p = normal(z_n, self.prior_net.fc31(p_h), self.prior_net.fc32(p_h).exp()).sum()
            log_q = normal(z_n, self.recognition_net.fc31(q_h), self.recognition_net.fc32(q_h).exp()).sum()
            pixels = self.generation_net(z_n)
            weights.append(log_p + bernoulli(y[missing], pixels[missing]).sum() - log_q)
        return torch.stack(weights)


@pytest.fixture
def digits():
    """Images with one quadrant seen, the rest -1, and the whole images."""
    ys = torch.rand(5, 4, 4).round()
    xs = torch.full_like(ys, -1.0)
    xs[:, :2, :2] = ys[:, :2, :2]
    return xs, ys


class EachRun:
    """A guide that keeps the z of every run."""

    def __init__(self, guide):
        self.guide, self.z = guide, []

    def __call__(self, *args):
        with poutine.trace() as recorded:
            self.guide(*args)
        self.z.append(recorded.trace.nodes["z"]["value"].detach())


def test_the_conditional_vae_example(digits, caplog):
    """Its boolean indexing refuses a leading dim, and its plate has no size: the data are repeated for each sample."""
    cvae = ExampleCVAE()
    guide = EachRun(cvae.guide)
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        found = log_weights(cvae.model, guide, digits, num_samples=4)
    assert found.shape == (4, 5)
    assert_close(found, torch.stack([cvae.by_hand(*digits, z) for z in guide.z[-1].unflatten(0, (4, 5))]), **EXACT)
    assert not caplog.records


def test_the_conditional_vae_in_log_likelihood(digits, caplog):
    """Both arguments are cut into blocks together, and the average is that of the weights by hand."""
    cvae = ExampleCVAE()
    with caplog.at_level(logging.WARNING, logger="pyro_vae"):
        found = log_likelihood(cvae.model, cvae.guide, digits, num_samples=30, seed=3)
    guide = EachRun(cvae.guide)
    torch.manual_seed(3)
    with torch.no_grad():
        guide(*(images.repeat(30, 1, 1) for images in digits))
        by_hand = torch.stack([cvae.by_hand(*digits, z) for z in guide.z[0].unflatten(0, (30, 5))])
    assert_close(found.per_datum, by_hand.logsumexp(0) - math.log(30), **EXACT)
    assert not caplog.records


# ---------------------------------------------------------------- the deep Markov model


class Emitter(nn.Module):
    def __init__(self, input_dim, z_dim, emission_dim):
        super().__init__()
        self.lin_z_to_hidden = nn.Linear(z_dim, emission_dim)
        self.lin_hidden_to_input = nn.Linear(emission_dim, input_dim)

    def forward(self, z_t):
        return torch.sigmoid(self.lin_hidden_to_input(self.lin_z_to_hidden(z_t).relu()))


class GatedTransition(nn.Module):
    def __init__(self, z_dim):
        super().__init__()
        self.lin_gate = nn.Linear(z_dim, z_dim)
        self.lin_proposed_mean = nn.Linear(z_dim, z_dim)
        self.lin_sig = nn.Linear(z_dim, z_dim)
        self.lin_z_to_loc = nn.Linear(z_dim, z_dim)
        self.softplus = nn.Softplus()

    def forward(self, z_t_1):
        gate = torch.sigmoid(self.lin_gate(z_t_1))
        proposed_mean = self.lin_proposed_mean(z_t_1)
        loc = (1 - gate) * self.lin_z_to_loc(z_t_1) + gate * proposed_mean
        return loc, self.softplus(self.lin_sig(proposed_mean.relu()))


class Combiner(nn.Module):
    def __init__(self, z_dim, rnn_dim):
        super().__init__()
        self.lin_z_to_hidden = nn.Linear(z_dim, rnn_dim)
        self.lin_hidden_to_loc = nn.Linear(rnn_dim, z_dim)
        self.lin_hidden_to_scale = nn.Linear(rnn_dim, z_dim)
        self.softplus = nn.Softplus()

    def forward(self, z_t_1, h_rnn):
        h_combined = 0.5 * (self.lin_z_to_hidden(z_t_1).tanh() + h_rnn)
        return self.lin_hidden_to_loc(h_combined), self.softplus(self.lin_hidden_to_scale(h_combined))


def reverse_sequences(mini_batch, seq_lengths):
    reversed_mini_batch = torch.zeros_like(mini_batch)
    for b in range(mini_batch.size(0)):
        length = int(seq_lengths[b])
        reversed_mini_batch[b, :length] = mini_batch[b, :length].flip(0)
    return reversed_mini_batch


class DMM(nn.Module):
    def __init__(self, input_dim=4, z_dim=3, emission_dim=5, rnn_dim=6):
        super().__init__()
        self.emitter = Emitter(input_dim, z_dim, emission_dim)
        self.trans = GatedTransition(z_dim)
        self.combiner = Combiner(z_dim, rnn_dim)
        self.rnn = nn.RNN(input_dim, rnn_dim, nonlinearity="relu", batch_first=True)
        self.z_0 = nn.Parameter(torch.randn(z_dim))
        self.z_q_0 = nn.Parameter(torch.randn(z_dim))
        self.h_0 = nn.Parameter(torch.randn(1, 1, rnn_dim))

    # Model and guide take the same arguments, as Pyro asks, and each leaves some unused.
    def model(self, mini_batch, mini_batch_reversed, mini_batch_mask, seq_lengths, annealing_factor=1.0):  # noqa: ARG002
        t_max = mini_batch.size(1)
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, t_max + 1)):
                z_loc, z_scale = self.trans(z_prev)
                with poutine.scale(scale=annealing_factor):
                    z_t = pyro.sample(
                        f"z_{t}",
                        dist.Normal(z_loc, z_scale).mask(mini_batch_mask[:, t - 1 : t]).to_event(1),
                    )
                emission_probs_t = self.emitter(z_t)
                pyro.sample(
                    f"obs_x_{t}",
                    dist.Bernoulli(emission_probs_t).mask(mini_batch_mask[:, t - 1 : t]).to_event(1),
                    obs=mini_batch[:, t - 1, :],
                )
                z_prev = z_t

    def guide(self, mini_batch, mini_batch_reversed, mini_batch_mask, seq_lengths, annealing_factor=1.0):
        t_max = mini_batch.size(1)
        pyro.module("dmm", self)
        h_0_contig = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        rnn_output, _ = self.rnn(mini_batch_reversed, h_0_contig)
        if isinstance(rnn_output, nn.utils.rnn.PackedSequence):
            rnn_output, _ = nn.utils.rnn.pad_packed_sequence(rnn_output, batch_first=True)
        rnn_output = reverse_sequences(rnn_output, seq_lengths)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, t_max + 1)):
                z_loc, z_scale = self.combiner(z_prev, rnn_output[:, t - 1, :])
                with poutine.scale(scale=annealing_factor):
                    z_t = pyro.sample(
                        f"z_{t}",
                        dist.Normal(z_loc, z_scale).mask(mini_batch_mask[:, t - 1 : t]).to_event(1),
                    )
                z_prev = z_t

    def by_hand(self, x, z):
        """The weight of one sequence ``(T, input_dim)`` and one path ``(T, z_dim)``; it has no padding."""
        h = [self.h_0[0, 0]]
        w_x, w_h = self.rnn.weight_ih_l0, self.rnn.weight_hh_l0
        bias = self.rnn.bias_ih_l0 + self.rnn.bias_hh_l0
        for x_t in x.flip(0):
            h.append((w_x @ x_t + w_h @ h[-1] + bias).relu())
        h = h[:0:-1]
        total, p_prev, q_prev = torch.zeros(()), self.z_0, self.z_q_0
        for x_t, z_t, h_t in zip(x, z, h, strict=True):
            total = total + normal(z_t, *self.trans(p_prev)).sum() - normal(z_t, *self.combiner(q_prev, h_t)).sum()
            total = total + bernoulli(x_t, self.emitter(z_t)).sum()
            p_prev = q_prev = z_t
        return total


LENGTHS = torch.tensor([6, 4, 4, 1])


def mini_batch(sequences, lengths, packed=True):
    """The arguments as the example's loader makes them, the sequences sorted by length, the mask of floats."""
    t_max = int(lengths.max())
    batch = sequences[:, :t_max]
    mask = (torch.arange(t_max) < lengths[:, None]).to(batch.dtype)
    backwards = reverse_sequences(batch, lengths)
    if packed:
        backwards = nn.utils.rnn.pack_padded_sequence(backwards, lengths, batch_first=True)
    return batch, backwards, mask, lengths


@pytest.fixture
def songs():
    """Four sequences of lengths 6, 4, 4, 1, with ones where the padding is, which must not matter."""
    notes = torch.rand(4, 6, 4).round()
    notes[torch.arange(6) >= LENGTHS[:, None]] = 1.0
    return notes


@pytest.mark.parametrize("annealing_factor", [1.0, 0.2])
@pytest.mark.parametrize("packed", [True, False])
def test_the_deep_markov_model_example(songs, recorder, caplog, annealing_factor, packed):
    """Annealing does not change the weights; time steps behind a sequence's end count nothing."""
    dmm = DMM()
    guide = recorder(dmm.guide)
    args = (*mini_batch(songs, LENGTHS, packed), annealing_factor)
    found = log_weights(dmm.model, guide, args, num_samples=3)
    path = torch.stack([guide.values[f"z_{t}"] for t in range(1, 7)], dim=2)
    assert path.shape == (3, 4, 6, 3)
    by_hand = torch.stack(
        [
            torch.stack([dmm.by_hand(songs[n, :length], path[k, n, :length]) for n, length in enumerate(LENGTHS)])
            for k in range(3)
        ]
    )
    assert_close(found, by_hand, **EXACT)
    assert not caplog.records  # it vectorizes


def test_a_sequence_does_not_feel_the_others(songs):
    """Alone, without padding, under the same path, each has the weight that it has in the batch."""
    dmm = DMM()
    args = mini_batch(songs, LENGTHS)
    path = poutine.trace(dmm.guide).get_trace(*args)
    together = log_weights(dmm.model, poutine.replay(dmm.guide, trace=path), args)
    for n, length in enumerate(LENGTHS.tolist()):
        alone = path.copy()
        for t in range(1, 7):
            alone.nodes[f"z_{t}"] = {**path.nodes[f"z_{t}"], "value": path.nodes[f"z_{t}"]["value"][n : n + 1]}
        one = mini_batch(songs[n : n + 1], LENGTHS[n : n + 1])
        assert one[0].shape == (1, length, 4)
        found = log_weights(dmm.model, poutine.replay(dmm.guide, trace=alone), one)
        assert_close(found[0, 0], together[0, n], **EXACT)


def test_the_deep_markov_model_in_log_likelihood(songs):
    """In blocks of two sequences, with all tensor arguments cut alike, the average is that of log_weights."""
    dmm = DMM()
    args = mini_batch(songs, LENGTHS, packed=False)
    with run_sizes(rows=60, head=60, calls=1):
        found = log_likelihood(dmm.model, dmm.guide, args, num_samples=30, seed=3)
    torch.manual_seed(3)
    halves = [tuple(arg[rows] for arg in args) for rows in (slice(0, 2), slice(2, 4))]
    weights = torch.cat([log_weights(dmm.model, dmm.guide, half, 30) for half in halves], dim=1)
    assert_close(found.per_datum, weights.logsumexp(0).detach() - math.log(30), **EXACT)
