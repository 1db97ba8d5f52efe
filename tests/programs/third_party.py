"""Programs in the shape of other people's, each with the weight of a draw computed by hand, datum by datum.

They are small, in double precision, and share nothing with the package: other site names, plates and argument lists,
networks that concatenate, reshape and normalise as their papers' code does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions import transforms
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, one_hot, softmax

Values = dict[str, Tensor]


@dataclass
class Third:
    """A pair, the data it was made for, and how its weights are computed by hand."""

    model: Callable
    guide: Callable
    args: tuple[Tensor, ...]
    by_hand: Callable[[Values], Tensor]
    """The log-weights ``(N,)`` of one draw of each site, by datum."""
    networks: list[nn.Module] = field(default_factory=list)
    log_x: Callable[[Tensor, Tensor], Tensor] | None = None
    """log p(x | z) of one datum, at z ``(..., dim)``, where a test takes the integral over z by quadrature."""

    @property
    def x(self):
        """The data as the evaluations take them."""
        return self.args[0] if len(self.args) == 1 else self.args


def normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - torch.as_tensor(scale).log() - 0.5 * math.log(2 * math.pi)


def bernoulli(x, p):
    return x * p.log() + (1 - x) * (1 - p).log()


# A VAE whose prior is a flow (coupling layers)


def flow_prior_vae(n=6, pixels=9, z_dim=4):
    split = z_dim // 2
    hyper = pyro.nn.DenseNN(split, [5], [z_dim - split, z_dim - split])
    encoder, decoder = nn.Linear(pixels, 2 * z_dim), nn.Linear(z_dim, pixels)
    x = torch.rand(n, pixels).round()

    def model(x):
        pyro.module("decoder", decoder)
        pyro.module("flow", hyper)
        with pyro.plate("batch", len(x)):
            coupling = transforms.AffineCoupling(split, hyper)
            base = dist.Normal(torch.zeros(z_dim), torch.ones(z_dim)).to_event(1)
            z = pyro.sample("code", dist.TransformedDistribution(base, [coupling]))
            pyro.sample("pixels", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("batch", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("code", dist.Normal(loc, log_scale.exp()).to_event(1))

    def by_hand(values):
        weights = []
        for x_n, z in zip(x, values["code"], strict=True):
            loc, log_scale = hyper(z[:split])
            log_scale = log_scale.clamp(-5.0, 3.0)
            before = torch.cat([z[:split], (z[split:] - loc) * (-log_scale).exp()])
            log_p = normal(before, 0.0, 1.0).sum() - log_scale.sum()
            q_loc, q_log_scale = encoder(x_n).chunk(2)
            log_q = normal(z, q_loc, q_log_scale.exp()).sum()
            weights.append(log_p + bernoulli(x_n, decoder(z).sigmoid()).sum() - log_q)
        return torch.stack(weights)

    return Third(model, guide, (x,), by_hand, [hyper, encoder, decoder])


# ProdLDA: topics of documents, counts of words, batch norm without a scale, dropout


def prod_lda(n=7, words=7, topics=3):
    """As many documents as words: batch norm of a leading sample dim would take one for the other, silently."""
    encoder = nn.Sequential(nn.Linear(words, 6), nn.Softplus(), nn.Dropout(0.2))
    loc_head, scale_head = nn.Linear(6, topics), nn.Linear(6, topics)
    loc_norm, scale_norm = (nn.BatchNorm1d(topics, affine=False) for _ in range(2))
    beta, beta_norm, drop = nn.Linear(topics, words, bias=False), nn.BatchNorm1d(words, affine=False), nn.Dropout(0.2)
    networks = nn.ModuleList([encoder, loc_head, scale_head, loc_norm, scale_norm, beta, beta_norm, drop])
    for norm in (loc_norm, scale_norm, beta_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    networks.eval()
    docs = torch.poisson(torch.full((n, words), 2.0))

    def model(docs):
        pyro.module("decoder", networks)
        with pyro.plate("documents", docs.shape[0]):
            zeros = docs.new_zeros((docs.shape[0], topics))
            logtheta = pyro.sample("logtheta", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            theta = softmax(logtheta, -1)
            probs = softmax(beta_norm(beta(drop(theta))), dim=1)
            pyro.sample("obs", dist.Multinomial(int(docs.sum(-1).max()), probs), obs=docs)

    def guide(docs):
        with pyro.plate("documents", docs.shape[0]):
            h = encoder(docs)
            loc, scale = loc_norm(loc_head(h)), (0.5 * scale_norm(scale_head(h))).exp()
            pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))

    def normed(norm, value):
        return (value - norm.running_mean) / (norm.running_var + norm.eps).sqrt()

    def log_x(doc, z):
        log_words = normed(beta_norm, beta(z.softmax(-1))).log_softmax(-1)
        return torch.lgamma(doc.sum() + 1) - torch.lgamma(doc + 1).sum() + (doc * log_words).sum(-1)

    def by_hand(values):
        weights = []
        for doc, z in zip(docs, values["logtheta"], strict=True):
            h = encoder[1](encoder[0](doc))
            loc, scale = normed(loc_norm, loc_head(h)), (0.5 * normed(scale_norm, scale_head(h))).exp()
            weights.append(normal(z, 0.0, 1.0).sum() + log_x(doc, z) - normal(z, loc, scale).sum())
        return torch.stack(weights)

    return Third(model, guide, (docs,), by_hand, [networks], log_x)


# The semi-supervised M2: a label that is seen for some data and drawn for others


def m2(n=6, pixels=8, z_dim=2, classes=3, labels=False):
    encoder_y = nn.Linear(pixels, classes)
    encoder_z = nn.Linear(pixels + classes, 2 * z_dim)
    decoder = nn.Linear(z_dim + classes, pixels)
    x = torch.rand(n, pixels).round()
    y = one_hot(torch.arange(n) % classes, classes).to(x.dtype)

    def model(xs, ys=None):
        pyro.module("ss_vae", decoder)
        with pyro.plate("data"):
            prior_loc, prior_scale = xs.new_zeros(xs.size(0), z_dim), xs.new_ones(xs.size(0), z_dim)
            zs = pyro.sample("z", dist.Normal(prior_loc, prior_scale).to_event(1))
            alpha = xs.new_ones(xs.size(0), classes) / classes
            ys = pyro.sample("y", dist.OneHotCategorical(alpha), obs=ys)
            loc = torch.sigmoid(decoder(torch.cat([zs, ys], -1)))
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)

    def guide(xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(encoder_y(xs).softmax(-1)))
            loc, log_scale = encoder_z(torch.cat([xs, ys], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def by_hand(values):
        weights = []
        for at, (x_n, z) in enumerate(zip(x, values["z"], strict=True)):
            y_n = y[at] if labels else values["y"][at]
            loc, log_scale = encoder_z(torch.cat([x_n, y_n])).chunk(2)
            pixels_n = decoder(torch.cat([z, y_n])).sigmoid()
            weight = normal(z, 0.0, 1.0).sum() - math.log(classes) + bernoulli(x_n, pixels_n).sum()
            weight = weight - normal(z, loc, log_scale.exp()).sum()
            if not labels:
                weight = weight - (encoder_y(x_n).log_softmax(-1) * y_n).sum()
            weights.append(weight)
        return torch.stack(weights)

    return Third(model, guide, (x, y) if labels else (x,), by_hand, [encoder_y, encoder_z, decoder])


# scANVI: counts of genes, a log-normal library size, two codes and a cell's label


def zinb(x, mean_logits, total, gate_logits):
    """A zero-inflated negative binomial of torch's logits: of success, counted until ``total`` failures."""
    count = torch.lgamma(x + total) - torch.lgamma(total) - torch.lgamma(x + 1)
    count = count + total * logsigmoid(-mean_logits) + x * logsigmoid(mean_logits)
    gate = gate_logits.sigmoid()
    return torch.where(x == 0, (gate + (1 - gate) * count.exp()).log(), (1 - gate).log() + count)


def scanvi(n=5, genes=6, z_dim=2, classes=2, labels=False, classification=None):
    z2_net, l_net = nn.Linear(genes, 2 * z_dim), nn.Linear(genes, 2)
    z1_net = nn.Linear(z_dim + classes, 2 * z_dim)
    y_net, z1_prior = nn.Linear(z_dim, classes), nn.Linear(z_dim + classes, 2 * z_dim)
    x_net = nn.Linear(z_dim, 2 * genes)
    log_total = nn.Parameter(torch.zeros(genes))
    networks = nn.ModuleList([z2_net, l_net, z1_net, y_net, z1_prior, x_net])
    x = torch.poisson(torch.full((n, genes), 3.0))
    y = one_hot(torch.arange(n) % classes, classes).to(x.dtype)

    def model(x, y=None):
        pyro.module("scanvi", networks)
        theta = log_total.exp()
        with pyro.plate("batch", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(z_dim), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(classes)), obs=y)
            loc, log_scale = z1_prior(torch.cat([z1, y.expand(z1.shape[:-1] + y.shape[-1:])], -1)).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, log_scale.exp()).to_event(1))
            size = pyro.sample("l", dist.LogNormal(x.new_full((1,), 2.8), 0.3).to_event(1))
            gate, mu = x_net(z2).chunk(2, -1)
            logits = (size * mu.softmax(-1) + 1e-6).log() - (theta + 1e-6).log()
            pyro.sample(
                "x", dist.ZeroInflatedNegativeBinomial(theta, logits=logits, gate_logits=gate).to_event(1), obs=x
            )

    def guide(x, y=None):
        with pyro.plate("batch", len(x)):
            h = torch.log1p(x)
            loc, log_scale = z2_net(h).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, log_scale.exp()).to_event(1))
            l_loc, l_log_scale = (0.1 * l_net(h)).chunk(2, -1)
            pyro.sample("l", dist.LogNormal(2.8 + l_loc, 0.3 * l_log_scale.exp()).to_event(1))
            y_logits = y_net(z2)
            seen = dist.OneHotCategorical(logits=y_logits)
            if y is None:
                y = pyro.sample("y", seen)
            elif classification is not None:
                pyro.factor("classification_loss", classification * seen.log_prob(y), has_rsample=False)
            loc, log_scale = z1_net(torch.cat([z2, y.expand(z2.shape[:-1] + y.shape[-1:])], -1)).chunk(2, -1)
            pyro.sample("z1", dist.Normal(loc, log_scale.exp()).to_event(1))

    def by_hand(values):
        weights = []
        for at, x_n in enumerate(x):
            z1, z2, size = (values[name][at] for name in ("z1", "z2", "l"))
            y_n, h = y[at] if labels else values["y"][at], torch.log1p(x_n)
            loc, log_scale = z1_prior(torch.cat([z1, y_n])).chunk(2)
            gate, mu = x_net(z2).chunk(2)
            theta = log_total.exp()
            logits = (size * mu.softmax(-1) + 1e-6).log() - (theta + 1e-6).log()
            log_p = normal(z1, 0.0, 1.0).sum() - math.log(classes) + normal(z2, loc, log_scale.exp()).sum()
            log_p = log_p + (normal(size.log(), 2.8, 0.3) - size.log()).sum() + zinb(x_n, logits, theta, gate).sum()
            loc, log_scale = z2_net(h).chunk(2)
            log_q = normal(z2, loc, log_scale.exp()).sum()
            loc, log_scale = (0.1 * l_net(h)).chunk(2)
            log_q = log_q + (normal(size.log(), 2.8 + loc, 0.3 * log_scale.exp()) - size.log()).sum()
            loc, log_scale = z1_net(torch.cat([z2, y_n])).chunk(2)
            log_q = log_q + normal(z1, loc, log_scale.exp()).sum()
            if not labels:
                log_q = log_q + (y_net(z2).log_softmax(-1) * y_n).sum()
            weights.append(log_p - log_q)
        return torch.stack(weights)

    return Third(model, guide, (x, y) if labels else (x,), by_hand, [networks])


# AIR: a loop of steps, each with an object that may be absent, where it is, and what


def air(n=5, pixels=6, what=2, steps=2, presence=0.6):
    rnn = nn.RNNCell(pixels + what + 2, 5)
    heads = nn.Linear(5, 1 + 2 + 2 * what)
    decoder = nn.Linear(1 + what, pixels)
    x = torch.randn(n, pixels)

    def model(data):
        pyro.module("decode", decoder)
        with pyro.plate("images", data.size(0)):
            canvas, present = data.new_zeros(data.size(0), pixels), data.new_ones(data.size(0), 1)
            for t in range(steps):
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(presence * present).to_event(1))
                where = pyro.sample(f"z_where_{t}", dist.Normal(data.new_zeros(1), 1.0).expand([data.size(0), 1])
                                    .mask(present).to_event(1))  # fmt: skip
                code = pyro.sample(f"z_what_{t}", dist.Normal(data.new_zeros(what), 1.0).expand([data.size(0), what])
                                   .mask(present).to_event(1))  # fmt: skip
                canvas = canvas + decoder(torch.cat([where, code], -1)) * present
            pyro.sample("obs", dist.Normal(canvas, 0.5).to_event(1), obs=data)

    def step(data, present, where, code, h):
        h = rnn(torch.cat([data, present, where, code], -1), h)
        out = heads(h)
        return out[..., :1].sigmoid() * present, out[..., 1:3].chunk(2, -1), out[..., 3:].chunk(2, -1), h

    def guide(data):
        pyro.module("rnn", rnn)
        with pyro.plate("images", data.size(0)):
            present, where = data.new_ones(data.size(0), 1), data.new_zeros(data.size(0), 1)
            code, h = data.new_zeros(data.size(0), what), data.new_zeros(data.size(0), 5)
            for t in range(steps):
                p, where_q, what_q, h = step(data, present, where, code, h)
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(p).to_event(1))
                where = pyro.sample(f"z_where_{t}", dist.Normal(where_q[0], where_q[1].exp()).mask(present).to_event(1))
                code = pyro.sample(f"z_what_{t}", dist.Normal(what_q[0], what_q[1].exp()).mask(present).to_event(1))

    def by_hand(values):
        weights = []
        for at, x_n in enumerate(x):
            weight, canvas, present = torch.zeros(()), torch.zeros(pixels), 1.0
            one, where, code, h = torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, what), torch.zeros(1, 5)
            for t in range(steps):
                p, where_q, what_q, h = step(x_n[None], one, where, code, h)
                one, where, code = (values[f"z_{name}_{t}"][at : at + 1] for name in ("pres", "where", "what"))
                if present:  # Behind the first absent object there is nothing to decide.
                    prior = presence if one.item() else 1 - presence
                    weight = weight + math.log(prior) - (p if one.item() else 1 - p).log().sum()
                present = one.item()
                if present:
                    weight = weight + normal(where, 0.0, 1.0).sum() - normal(where, where_q[0], where_q[1].exp()).sum()
                    weight = weight + normal(code, 0.0, 1.0).sum() - normal(code, what_q[0], what_q[1].exp()).sum()
                    canvas = canvas + decoder(torch.cat([where, code], -1))[0]
            weights.append(weight + normal(x_n, canvas, 0.5).sum())
        return torch.stack(weights)

    return Third(model, guide, (x,), by_hand, [rnn, heads, decoder])


# pyroVED's models: pose latents before the content, discrete classes beside it


def rotated(grid, angle, shift):
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    return torch.bmm(grid, rotation) + shift.unsqueeze(1)


def pyroved(n=5, side=3, content=2, classes=0, labels=False, kl_scale=1.0):
    """A VAE that is invariant to rotations and shifts (``classes=0``), with discrete classes (jVAE), with labels."""
    z_dim, pixels = 3 + content, side * side
    axis = torch.linspace(-1, 1, side)
    grid = torch.cartesian_prod(axis, axis)
    of_place, of_code = nn.Linear(2, 4), nn.Linear(content + classes, 4, bias=False)
    out, encoder = nn.Linear(4, 1), nn.Linear(pixels + (classes if labels else 0), 2 * z_dim)
    classifier = nn.Linear(pixels, classes) if classes else nn.Identity()
    x = torch.rand(n, side, side).round()
    y = one_hot(torch.arange(n) % max(classes, 1), max(classes, 1)).to(x.dtype)

    def decode(places, code):
        h = (of_place(places) + of_code(code).unsqueeze(1)).tanh()
        return out(h).reshape(places.shape[0], -1).sigmoid()

    def model(x, y=None):
        pyro.module("decoder", nn.ModuleList([of_place, of_code, out]))
        reshape_ = x.shape[-2] * x.shape[-1]
        with pyro.plate("data"):
            with poutine.scale(scale=kl_scale):
                loc = torch.zeros(x.shape[0], z_dim)
                z = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            if classes:
                alpha = torch.full((x.shape[0], classes), 1 / classes)
                y = pyro.sample("y", dist.OneHotCategorical(alpha), obs=y)
            angle, shift, code = z[:, 0], z[:, 1:3], z[:, 3:]
            if classes:
                code = torch.cat([code, y], dim=-1)
            places = rotated(grid.expand(x.shape[0], *grid.shape), angle, 0.1 * shift)
            pyro.sample("obs", dist.Bernoulli(decode(places, code)).to_event(1), obs=x.view(-1, reshape_))

    def guide(x, y=None):
        pyro.module("encoder", encoder)
        flat = x.reshape(-1, pixels)
        with pyro.plate("data"):
            if classes and y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(flat)))
            loc, log_scale = encoder(torch.cat([flat, y], -1) if labels else flat).chunk(2, -1)
            with poutine.scale(scale=kl_scale):
                pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))

    def by_hand(values):
        weights = []
        for at, (x_n, z) in enumerate(zip(x, values["latent"], strict=True)):
            flat, cos, sin = x_n.flatten(), z[0].cos(), z[0].sin()
            turned = torch.stack([grid[:, 0] * cos - grid[:, 1] * sin, grid[:, 0] * sin + grid[:, 1] * cos], 1)
            code, weight = z[3:], torch.zeros(())
            if classes:
                y_n = y[at] if labels else values["y"][at]
                code, weight = torch.cat([code, y_n]), weight - math.log(classes)
                if not labels:
                    weight = weight - (classifier(flat).log_softmax(-1) * y_n).sum()
            p = out((of_place(turned + 0.1 * z[1:3]) + of_code(code)).tanh())[:, 0].sigmoid()
            loc, log_scale = encoder(torch.cat([flat, y_n]) if labels else flat).chunk(2)
            weight = weight + (normal(z, 0.0, 1.0) - normal(z, loc, log_scale.exp())).sum()
            weights.append(weight + bernoulli(flat, p).sum())
        return torch.stack(weights)

    return Third(model, guide, (x, y) if labels else (x,), by_hand, [of_place, of_code, out, encoder, classifier])


PROGRAMS: dict[str, Callable[[], Third]] = {
    "flow prior": flow_prior_vae,
    "ProdLDA": prod_lda,
    "M2": m2,
    "M2 with labels": lambda: m2(labels=True),
    "scANVI": scanvi,
    "scANVI with labels": lambda: scanvi(labels=True),
    "AIR": air,
    "trVAE": pyroved,
    "trVAE, scaled KL": lambda: pyroved(kl_scale=0.5),
    "jVAE": lambda: pyroved(classes=2),
    "ssVAE with labels": lambda: pyroved(classes=2, labels=True),
}
