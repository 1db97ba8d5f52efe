"""The joint density of a Pyro model as a function of one flat, unconstrained vector for each datum."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import PairError
from pyro_vae.programs.coordinates import ROUNDED, innermost, is_circular, onto_support
from pyro_vae.programs.masks import coordinate_mask, element_mask, log_volume_of
from pyro_vae.programs.modules import as_args, local_params
from pyro_vae.programs.pair import SOFT_TARGETS, Pair, unobserved
from pyro_vae.programs.particles import Particles, Site, latent_sites, observed_sites, samples
from pyro_vae.programs.precision import roughened
from pyro_vae.programs.redrawn import Redrawn, is_factor, refuse_factors
from pyro_vae.programs.undo import probing
from pyro_vae.programs.values import observed_value, support_of
from pyro_vae.protocols import Program


@dataclass(frozen=True)
class JointTerms:
    """The pieces of log p(x, u), each ``(num_chains, batch)`` in nats."""

    log_likelihood: Tensor
    """log p(x | z), all observed sites."""
    log_prior: Tensor
    """log p(z) |det dz/du|: the prior's density in the unconstrained coordinates."""
    log_volume: Tensor
    """log |det dz/du|, which makes a density of z one of u."""

    @property
    def log_joint(self) -> Tensor:
        """Log p(x, u)."""
        return self.log_likelihood + self.log_prior


class Joint:
    r"""log p(x, u) of a model whose latent sites z are read from one unconstrained vector u for each datum.

    .. math:: \log p(x, u) = \log p(x | z(u)) + \log p(z(u)) + \log |\det \partial z / \partial u|

    Methods that move in the latent space without a guide (Hamiltonian dynamics, a q of its own for each datum) use
    it. Each latent site has a stretch of u, in the model's order, and is mapped onto its support as Pyro does it
    (``biject_to``), but where a law is not normalized on the support that it declares, as one of angles is
    (:func:`pyro_vae.programs.coordinates.onto_support`). Scales and subsamples of the model do not enter, as in
    :func:`pyro_vae.log_weights`.

    A masked latent element does not exist for its datum: it counts neither in the prior nor in the determinant, and
    nothing that counts may depend on it. It keeps its coordinates; :meth:`counted` says which others are left.

    Args:
        who: the caller, for messages.
        model: p(x, z), a Pyro program with one vectorized batch plate.
        x: some data, or a tuple of all arguments, on which the model is run to learn its sites.
        plate: the batch plate's name, needed only where several would do.
        why_continuous: what a discrete latent site lacks for the caller, for the message.

    Raises:
        PairError: the model has no batch plate, or a latent site outside it.
        ValueError: a latent site is discrete; the batch plate subsamples; or
            something that counts depends on a masked latent element.

    >>> from pyro_vae.models import VAE
    >>> x = torch.zeros(7, 1, 28, 28)
    >>> joint = Joint("example", VAE((1, 28, 28), latent_dim=50), x)
    >>> u = joint.draw(x, num_chains=3)
    >>> u.shape, joint.terms(x, u).log_joint.shape
    (torch.Size([3, 7, 50]), torch.Size([3, 7]))
    """

    def __init__(
        self,
        who: str,
        model: Program,
        x: Any,
        plate: str | None = None,
        *,
        why_continuous: str = "its density has no gradient to follow",
    ) -> None:
        self._who, self._model = who, model
        self.pair = Pair(model, unobserved(model), x, plate)
        """The model with its prior for a guide."""
        self._plate = self.pair.plate
        if self.pair.subsamples:
            raise ValueError(
                f"{who}: plate {self._plate.name!r} takes {self._plate.size} of the data alone, as a subsample. Give "
                f"it all the data that {who} is called with."
            )
        with probing(model):
            latent = latent_sites(self._prior_runs(x, 1)[0].model_trace)
        for site in latent:
            _check_coordinates(who, site, why_continuous)
        sizes = [_coordinates(site).numel() // self._plate.size for site in latent]
        ends = list(accumulate(sizes))
        self.parts = {site["name"]: slice(end - size, end) for site, size, end in zip(latent, sizes, ends, strict=True)}
        """Where each latent site lies in u, in the model's order."""
        self.dim = ends[-1]
        """Size of u."""
        self.angles = {site["name"] for site in latent if is_circular(site["fn"])}
        """Latent sites that are angles, whose density repeats on the line."""
        self.masked = any(element_mask(site) is not None for site in latent)
        """Whether latent elements of some data may be masked."""
        if self.masked:
            self.check_masks(x)

    def counted(self, x: Any) -> Tensor | None:
        """Return which coordinates count, ``(batch, dim)``; None for a model without masks on latent sites."""
        return self._counted(self._prior_runs(x, 1)[0]) if self.masked else None

    def shown(self, x: Any) -> dict[str, Tensor]:
        """Return which elements of masked latent sites count, each ``(1, *its own shape)``."""
        run = self._prior_runs(x, 1)[0]
        masks = [(site, element_mask(site)) for site in latent_sites(run.model_trace)]
        layout = self.pair.layout
        return {site["name"]: layout.apart(run, {**site, "value": mask}) for site, mask in masks if mask is not None}

    def check_masks(self, x: Any) -> None:
        """Refuse a model in which something that counts depends on what is masked.

        Raises:
            PairError: the mask follows the latents, or log p(x, z) changes with masked elements. Then log p(x) is
                not defined by the model alone.
        """
        masks = [self._counted(self._prior_runs(x, 1)[0]) for _ in range(2)]
        if not torch.equal(*masks):
            raise PairError(
                f"{self._who}: a mask on the latent sites ({', '.join(self.parts)}) changes with "
                f"what is drawn, so that z has another dimension from draw to draw. Make the mask a function of the "
                f"data."
            )
        self.pair.check_masks(x)

    def draw(self, x: Any, num_chains: int) -> Tensor:
        """Draw u from the prior, ``(num_chains, batch, dim)``."""
        return torch.cat([self.coordinates(run) for run in self._prior_runs(x, num_chains)])

    def terms(self, x: Any, u: Tensor) -> JointTerms:
        """Return log p(x | u) and log p(u), with their gradients, at u ``(num_chains, batch, dim)``."""
        terms = [self._terms_of(run, log_volumes) for run, log_volumes in self._runs(x, u)]
        return JointTerms(
            torch.cat([of_run.log_likelihood for of_run in terms]),
            torch.cat([of_run.log_prior for of_run in terms]),
            torch.cat([of_run.log_volume for of_run in terms]),
        )

    @staticmethod
    def _terms_of(run: Particles, log_volumes: list[Tensor]) -> JointTerms:
        log_likelihood = run.log_prob(observed_sites(run.model_trace))
        log_prior = run.log_prob(latent_sites(run.model_trace))
        log_volume = sum(map(run.per_datum, log_volumes), start=torch.zeros_like(log_prior))
        return JointTerms(log_likelihood, log_prior + log_volume, log_volume)

    def rounding(self, x: Any, u: Tensor) -> Tensor:
        """Return how large the roundings in log p(x, u) may be, in nats, at u ``(num_chains, batch, dim)``.

        As :meth:`pyro_vae.programs.pair.Pair.roundings` has them: by how much log p(x, u) moves where u does by one
        rounding, or the parameters that depend on it. No random number generator is moved.

        Returns:
            Tensor ``(num_chains, batch)``, float64, on the CPU.
        """
        beside = torch.nextafter(u, torch.full_like(u, torch.inf))
        roundings = []
        with probing(self._model):
            runs = zip(self._runs(x, u), self._runs(x, beside), self._runs(x, u + 1), strict=True)
            for (at_u, volumes), (next_to_u, next_volumes), (elsewhere, _) in runs:
                exact = self._terms_of(at_u, volumes).log_joint
                rough = replace(at_u, model_trace=roughened(at_u.model_trace, elsewhere.model_trace))
                moved = self._terms_of(next_to_u, next_volumes), self._terms_of(rough, volumes)
                roundings.append(torch.stack([(terms.log_joint - exact).abs() for terms in moved]).amax(0))
        # A log-density that is not finite has no rounding.
        return torch.cat(roundings).double().cpu().nan_to_num(0.0, 0.0, 0.0)

    def values(self, x: Any, u: Tensor) -> dict[str, Tensor]:
        """Return the latent sites' values at u ``(num_chains, batch, dim)``: each ``(num_chains, *its own shape)``."""
        drawn: dict[str, list[Tensor]] = {name: [] for name in self.parts}
        for run, _ in self._runs(x, u):
            for site in latent_sites(run.model_trace):
                drawn[site["name"]].append(self.pair.layout.apart(run, site))
        return {name: torch.cat(values) for name, values in drawn.items()}

    def coordinates(self, run: Particles) -> Tensor:
        """Return u ``(num_chains, batch, dim)`` of the values in a run of this model, alone or in a pair."""
        return self._laid_out(run, _coordinates)

    def simulate(self, x: Any) -> tuple[Any, Tensor]:
        """Draw u from the prior, and data given u.

        Args:
            x: data or arguments of the shape wanted; the data's values do not matter, but for what is missing (NaN).

        Returns:
            Arguments like x with the data drawn in place of its first tensor, NaN where that is NaN, and u
            ``(1, batch, dim)``.

        Raises:
            ValueError: p(x | z) is no law of x; or the model does not observe exactly one site of the data's size, so
                that it is unknown which argument the drawn data replace.
        """
        args = as_args(x)
        if self.pair.caveat == SOFT_TARGETS:
            raise ValueError(f"{self._who}: no data can be drawn from a likelihood of soft targets: it is no law of x.")
        with pyro.validation_enabled(False), torch.no_grad(), local_params(self._model), Redrawn():
            trace = poutine.trace(self._model).get_trace(*args)
        refuse_factors(self._who, trace)
        drawn = [site for site in samples(trace) if site["name"] not in self.parts and not is_factor(site)]
        if len(drawn) != 1 or drawn[0]["value"].numel() != args[0].numel():
            shapes = ", ".join(str(tuple(site["value"].shape)) for site in drawn)
            raise ValueError(
                f"{self._who}: to draw data, the model must observe one site of the data's size; it observes "
                f"{shapes} where x is {tuple(args[0].shape)}."
            )
        self._require_observed_as_given(args, drawn[0]["name"])
        data = drawn[0]["value"].reshape(args[0].shape).to(args[0].dtype)
        # What is missing stays missing, for a model that masks it by its value.
        data = torch.where(args[0].isnan(), args[0], data)
        run = Particles(trace, trace, trace, self._plate, self.pair.particle_dim)
        return ((data, *args[1:]) if isinstance(x, tuple) else data), self.coordinates(run)

    def _require_observed_as_given(self, args: tuple[Any, ...], name: str) -> None:
        """Refuse a model that observes something else than its first argument: a draw cannot take its place.

        Raises:
            ValueError: names the site.
        """
        with probing(self._model), local_params(self._model):
            site = poutine.trace(self._model).get_trace(*args).nodes[name]
        given, fn = args[0], site["fn"]
        observed = observed_value(site).reshape(given.shape).to(given.dtype)
        known = ~(observed.isnan() | given.isnan())
        lossless = given.is_floating_point() or not site["value"].is_floating_point() or fn.support.is_discrete
        if not (lossless and torch.equal(observed[known], given[known])):
            raise ValueError(
                f"{self._who}: to draw data, the model must observe its first argument as it is; site {name!r} "
                f"observes something made of the arguments, or another one of them. Standardise, shift or cast the "
                f"data before they are given to the model, and let what is observed come first."
            )

    def _prior_runs(self, x: Any, num_chains: int) -> list[Particles]:
        with pyro.validation_enabled(False), torch.no_grad():
            return self.pair.run(x, num_chains)

    def _runs(self, x: Any, u: Tensor) -> Iterator[tuple[Particles, list[Tensor]]]:
        """Run the model at u: at all chains together, or one by one."""
        layout, plate_dim = self.pair.layout, self._plate.dim
        for chunk, count in layout.chunks(len(u)):
            # Right of the data, u has one dim; a site has -1 - plate_dim batch dims and those of its event.
            inside = layout.inside(u[chunk], event_dim=2 + plate_dim)
            at = AtCoordinates(self.parts, inside, plate_dim)
            yield self.pair.run_alone(self._model, x, count, at), at.log_volumes

    def _counted(self, run: Particles) -> Tensor:
        """Return which coordinates count in the first sample of a run, ``(batch, dim)``."""
        return self._laid_out(run, lambda site: coordinate_mask(site, onto_support(site["fn"])))[0]

    def _laid_out(self, run: Particles, of: Callable[[Site], Tensor]) -> Tensor:
        """Return something of each coordinate ``(num_chains, batch, dim)``, from a function of the sites."""
        flat = []
        for name in self.parts:
            site = run.model_trace.nodes[name]
            coordinates, batch_dims = of(site), len(site["fn"].batch_shape)
            chained = batch_dims == -run.particle_dim
            # The data next to the chains, the rest behind them.
            ordered = coordinates.movedim(batch_dims + run.plate.dim, int(chained))
            lead = ordered.shape[:2] if chained else (run.repeats, len(ordered) // run.repeats)
            flat.append(ordered.reshape(*lead, -1))
        return torch.cat(flat, -1)


class AtCoordinates(Messenger):
    """Gives latent sites the values that lie at u ``(*chains, batch, dim)``, and keeps log|det| of each map."""

    def __init__(self, parts: Mapping[str, slice], u: Tensor, plate_dim: int) -> None:
        super().__init__()
        self._parts, self._u, self._plate_dim = parts, u, plate_dim
        self.log_volumes: list[Tensor] = []
        """Of each site, of its batch shape."""

    def _pyro_sample(self, msg: Any) -> None:
        part = self._parts.get(msg["name"])
        if part is None or msg["is_observed"]:
            return
        fn, transform = msg["fn"], onto_support(msg["fn"])
        shape = transform.inverse_shape(fn.batch_shape + fn.event_shape)
        where = len(fn.batch_shape) + self._plate_dim
        lead = self._u.ndim - 1
        # Every dim but the chains' and the data's, in the site's order.
        rest = [size for dim, size in enumerate(shape) if dim not in (where, *range(lead - 1))]
        flat = self._u[..., part].reshape(*self._u.shape[:-1], *rest)
        coordinates = flat.movedim(lead - 1, where)
        value = transform(coordinates)
        self.log_volumes.append(log_volume_of(msg, transform, coordinates, value))
        msg["value"], msg["done"] = value, True


def _check_coordinates(who: str, site: Site, why_continuous: str) -> None:
    """Refuse a latent site without a density in unconstrained coordinates.

    Raises:
        ValueError: says what the site lacks.
    """
    fn, law = site["fn"], innermost(site["fn"])
    latent = f"{who}: latent site {site['name']!r}"
    if isinstance(law, dist.Delta):
        raise ValueError(
            f"{latent} is a point mass (Delta), which has no density to move in. Make it pyro.deterministic in the "
            f"model, and leave it out of the guide."
        )
    if support_of(fn) is None:
        raise ValueError(
            f"{latent} ({type(fn).__name__}) does not say where its values lie. Give the distribution its support, as "
            f"`support = constraints.real_vector` of torch's constraints for a flow that fills the space."
        )
    if fn.support.is_discrete:
        raise ValueError(
            f"{latent} is discrete ({type(fn).__name__}): {why_continuous}. Sum it out of the model first."
        )
    if isinstance(law, ROUNDED):
        raise ValueError(
            f"{latent} draws from {type(law).__name__}, whose draws are rounded while its density is that of what they "
            f"were before. Use the relaxed law without rounding."
        )
    try:
        transform = onto_support(fn)
        transform.log_abs_det_jacobian(transform.inv(site["value"]), site["value"])
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"{latent} ({type(law).__name__}) needs a map from the reals onto its support with an inverse and a "
            f"determinant; there is none for {fn.support}. Use a law on the reals, an interval or a simplex, or "
            f"log_likelihood, which needs no such map."
        ) from error


def _coordinates(site: Site) -> Tensor:
    """Return where a site's value lies before the map onto its support."""
    return onto_support(site["fn"]).inv(site["value"])
