"""The joint density of a Pyro model as a function of one flat, unconstrained vector for each datum."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.programs.coordinates import ROUNDED, innermost, is_circular, onto_support
from pyro_vae.programs.masks import coordinate_mask, element_mask, masked_log_volume, masks_of
from pyro_vae.programs.modules import as_args, local_params, modules_of
from pyro_vae.programs.pair import SOFT_TARGETS, Pair
from pyro_vae.programs.particles import Particles, Site, samples
from pyro_vae.programs.precision import roughened
from pyro_vae.programs.redrawn import Redrawn, is_factor, refuse_factors
from pyro_vae.programs.support import says_its_support
from pyro_vae.programs.undo import no_side_effects
from pyro_vae.programs.values import observed_value
from pyro_vae.protocols import Program
from pyro_vae.runtime.roundings import agree


@dataclass(frozen=True)
class Part:
    """Where a latent site lies in the flat vector."""

    name: str
    start: int
    stop: int


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

    What moves in the latent space without a guide (Hamiltonian dynamics, a q of its own for each datum) stands on
    this. Each latent site has a stretch of u, in the model's order, and is mapped onto its support as Pyro does it
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

    Raises:
        PairError: the model has no batch plate, or a latent site outside it.
        ValueError: a latent site is discrete, so that its density has no gradient; the batch plate subsamples; or
            something that counts depends on a masked latent element.

    >>> from pyro_vae.models import VAE
    >>> x = torch.zeros(7, 1, 28, 28)
    >>> joint = Joint("example", VAE((1, 28, 28), latent_dim=50), x)
    >>> u = joint.draw(x, num_chains=3)
    >>> u.shape, joint.terms(x, u).log_joint.shape
    (torch.Size([3, 7, 50]), torch.Size([3, 7]))
    """

    def __init__(self, who: str, model: Program, x: Any, plate: str | None = None) -> None:
        self._who, self._model = who, model
        # The prior is the guide that every model has.
        self._pair = Pair(model, poutine.block(model, hide_fn=_is_observed), x, plate)
        self._plate = self._pair.plate
        if self._pair.subsamples:
            raise ValueError(
                f"{who}: plate {self._plate.name!r} takes {self._plate.size} of the data alone, as a subsample. Give "
                f"it all the data that {who} is called with."
            )
        with no_side_effects(modules_of(model)):
            latent = _latent(self._prior_runs(x, 1)[0])
        for site in latent:
            if isinstance(innermost(site["fn"]), dist.Delta):
                raise ValueError(
                    f"{who}: latent site {site['name']!r} is a point mass (Delta), which has no density to move in. "
                    f"Make it pyro.deterministic in the model, and leave it out of the guide."
                )
            if not says_its_support(site["fn"]):
                raise ValueError(
                    f"{who}: latent site {site['name']!r} ({type(site['fn']).__name__}) does not say where its values "
                    f"lie. Give the distribution its support, as `support = constraints.real_vector` of torch's "
                    f"constraints for a flow that fills the space."
                )
            if site["fn"].support.is_discrete:
                raise ValueError(
                    f"{who}: latent site {site['name']!r} is discrete ({type(site['fn']).__name__}): its density has "
                    f"no gradient to follow. Sum it out of the model first."
                )
            self._check_map(site)
        sizes = [_coordinates(site).numel() // self._plate.size for site in latent]
        ends = list(accumulate(sizes))
        self.parts = [Part(site["name"], end - size, end) for site, size, end in zip(latent, sizes, ends, strict=True)]
        """The stretch of each latent site."""
        self.dim = ends[-1]
        """Size of u."""
        self.angles = {site["name"] for site in latent if is_circular(site["fn"])}
        """Latent sites that are angles, whose density repeats on the line."""
        self.masked = any(masks_of(site) for site in latent)
        """Whether latent elements of some data may be masked."""
        if self.masked:
            self.check_masks(x)

    @property
    def vectorizes(self) -> bool:
        """Whether many chains are run at once, and not one by one."""
        return self._pair.vectorizes

    @property
    def wide(self) -> bool:
        """Whether log-densities are computed in float64 where the model computes in float32."""
        return self._pair.wide

    def widen(self, x: Any) -> None:
        """Do so from now on where float32 would lose too much of the log-densities of these data."""
        self._pair.widen(x)

    @property
    def normalized(self) -> bool:
        """False where p(x, z) is no density, so that p(x) is none either."""
        return self._pair.normalized

    @property
    def caveat(self) -> str | None:
        """Why it is none."""
        return self._pair.caveat

    @property
    def outputs(self) -> int:
        """How many numbers the largest parameter of p(x | z) has for a datum."""
        return self._pair.outputs

    def counted(self, x: Any) -> Tensor | None:
        """Return which coordinates count, ``(batch, dim)``; None for a model without masks on latent sites."""
        return self._counted(self._prior_runs(x, 1)[0]) if self.masked else None

    def shown(self, x: Any) -> dict[str, Tensor]:
        """Return which elements of masked latent sites count, each ``(1, *its own shape)``."""
        run = self._prior_runs(x, 1)[0]
        masks = [(site, element_mask(site)) for site in _latent(run)]
        layout = self._pair.layout
        return {site["name"]: layout.apart(run, {**site, "value": mask}) for site, mask in masks if mask is not None}

    def check_masks(self, x: Any) -> None:
        """Refuse a model in which something that counts depends on what is masked.

        Raises:
            ValueError: the mask follows the latents, or log p(x, z) changes with masked elements. Then log p(x) is
                not defined by the model alone.
        """
        sites = ", ".join(part.name for part in self.parts)
        runs = [self._prior_runs(x, 1)[0] for _ in range(2)]
        counted, again = map(self._counted, runs)
        if not torch.equal(counted, again):
            raise ValueError(
                f"{self._who}: a mask on the latent sites ({sites}) changes with what is drawn, so that z has another "
                f"dimension from draw to draw. Make the mask a function of the data."
            )
        u, other = map(self.coordinates, runs)
        with torch.no_grad():
            before, after = (self.terms(x, at) for at in (u, torch.where(counted, u, other)))
        for what, one, two in (
            ("log p(x | z)", before.log_likelihood, after.log_likelihood),
            ("log p(z)", before.log_prior, after.log_prior),
        ):
            if not agree(one, two, roundings=1000, eps=torch.finfo(u.dtype).eps):
                raise ValueError(
                    f"{self._who}: {what} depends on masked elements of the latent sites ({sites}), so that log p(x) "
                    f"is not defined. Mask everything that follows from them, or nothing of them."
                )

    def _check_map(self, site: Site) -> None:
        """Refuse a latent site without a density in unconstrained coordinates."""
        law = innermost(site["fn"])
        if isinstance(law, ROUNDED):
            raise ValueError(
                f"{self._who}: latent site {site['name']!r} draws from {type(law).__name__}, whose draws are rounded "
                f"while its density is that of what they were before. Use the relaxed law without rounding."
            )
        try:
            transform = onto_support(site["fn"])
            transform.log_abs_det_jacobian(transform.inv(site["value"]), site["value"])
        except (NotImplementedError, KeyError) as error:
            raise ValueError(
                f"{self._who}: latent site {site['name']!r} ({type(law).__name__}) needs a map from the reals onto its "
                f"support with an inverse and a determinant; there is none for {_named(site['fn'])}. Use a law on the "
                f"reals, an interval or a simplex, or log_likelihood, which needs no such map."
            ) from error

    def draw(self, x: Any, num_chains: int) -> Tensor:
        """Draw u from the prior, ``(num_chains, batch, dim)``."""
        return torch.cat([self.coordinates(run) for run in self._prior_runs(x, num_chains)])

    def terms(self, x: Any, u: Tensor) -> JointTerms:
        """Return log p(x | u) and log p(u), with their gradients, at u ``(num_chains, batch, dim)``."""
        likelihoods, priors, volumes = [], [], []
        for run, log_volumes in self._runs(x, u):
            observed = [site for site in samples(run.model_trace) if site["is_observed"]]
            latent = _latent(run)
            likelihoods.append(run.log_prob(observed, [1.0 for _ in observed]))
            prior = run.log_prob(latent, [1.0 for _ in latent])
            volumes.append(sum(map(run.per_datum, log_volumes), start=torch.zeros_like(prior)))
            priors.append(prior + volumes[-1])
        return JointTerms(torch.cat(likelihoods), torch.cat(priors), torch.cat(volumes))

    def rounding(self, x: Any, u: Tensor) -> Tensor:
        """Return how large the roundings in log p(x, u) may be, in nats, at u ``(num_chains, batch, dim)``.

        As :meth:`pyro_vae.programs.pair.Pair.roundings` has them: by how much log p(x, u) moves where u does by one
        rounding, or the parameters that depend on it. No random number generator is moved.

        Returns:
            Tensor ``(num_chains, batch)``, float64, on the CPU.
        """
        beside = torch.nextafter(u, torch.full_like(u, torch.inf))
        found = []
        with no_side_effects(modules_of(self._model)), torch.no_grad():
            runs = zip(self._runs(x, u), self._runs(x, beside), self._runs(x, u + 1), strict=True)
            for (at_u, volumes), (next_to_u, next_volumes), (elsewhere, _) in runs:
                exact = self._log_joint(at_u, volumes)
                rough = replace(at_u, model_trace=roughened(at_u.model_trace, elsewhere.model_trace))
                moved = self._log_joint(next_to_u, next_volumes), self._log_joint(rough, volumes)
                found.append(torch.stack([(value - exact).abs() for value in moved]).amax(0))
        # Of one without mass, or that is not finite, nothing is said.
        return torch.cat(found).double().cpu().nan_to_num(0.0, 0.0, 0.0)

    def _log_joint(self, run: Particles, log_volumes: list[Tensor]) -> Tensor:
        sites = list(samples(run.model_trace))
        return run.log_prob(sites, [1.0 for _ in sites]) + sum(map(run.per_datum, log_volumes))

    def values(self, x: Any, u: Tensor) -> dict[str, Tensor]:
        """Return the latent sites' values at u ``(num_chains, batch, dim)``: each ``(num_chains, *its own shape)``."""
        found: dict[str, list[Tensor]] = {part.name: [] for part in self.parts}
        for run, _ in self._runs(x, u):
            for site in _latent(run):
                found[site["name"]].append(self._pair.layout.apart(run, site))
        return {name: torch.cat(values) for name, values in found.items()}

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
                that nobody knows which argument holds what was drawn.
        """
        args = as_args(x)
        if self.caveat == SOFT_TARGETS:
            raise ValueError(f"{self._who}: no data can be drawn from a likelihood of soft targets: it is no law of x.")
        with pyro.validation_enabled(False), torch.no_grad(), local_params(self._model), Redrawn():
            trace = poutine.trace(self._model).get_trace(*args)
        refuse_factors(self._who, trace)
        names = {part.name for part in self.parts}
        drawn = [site for site in samples(trace) if site["name"] not in names and not is_factor(site)]
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
        run = Particles(trace, trace, trace, self._plate, self._pair.particle_dim)
        return ((data, *args[1:]) if isinstance(x, tuple) else data), self.coordinates(run)

    def _require_observed_as_given(self, args: tuple[Any, ...], name: str) -> None:
        """Refuse a model that observes something else than its first argument, for which a draw cannot stand.

        Raises:
            ValueError: names the site.
        """
        quiet = no_side_effects(modules_of(self._model))
        with pyro.validation_enabled(False), torch.no_grad(), local_params(self._model), quiet:
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
            return self._pair.run(x, num_chains)

    def _runs(self, x: Any, u: Tensor) -> Iterator[tuple[Particles, list[Tensor]]]:
        """Run the model at u: at all chains together, or one by one."""
        for chains in [u] if self.vectorizes else u.split(1):
            at = AtCoordinates(self.parts, self._pair.layout.rows(chains), self._plate.dim)
            yield self._pair.run_alone(self._model, x, len(chains), at), at.log_volumes

    def _counted(self, run: Particles) -> Tensor:
        """Return which coordinates count in the first sample of a run, ``(batch, dim)``."""
        return self._laid_out(run, lambda site: coordinate_mask(site, onto_support(site["fn"])))[0]

    def _laid_out(self, run: Particles, of: Callable[[Site], Tensor]) -> Tensor:
        """Return something of each coordinate ``(num_chains, batch, dim)``, from a function of the sites."""
        flat = []
        for part in self.parts:
            site = run.model_trace.nodes[part.name]
            coordinates, batch_dims = of(site), len(site["fn"].batch_shape)
            chained = batch_dims == -run.particle_dim
            # The data next to the chains, the rest behind them.
            ordered = coordinates.movedim(batch_dims + run.plate.dim, int(chained))
            lead = ordered.shape[:2] if chained else (run.repeats, len(ordered) // run.repeats)
            flat.append(ordered.reshape(*lead, -1))
        return torch.cat(flat, -1)


class AtCoordinates(Messenger):
    """Gives latent sites the values that lie at u ``(*chains, batch, dim)``, and keeps log|det| of each map."""

    def __init__(self, parts: Sequence[Part], u: Tensor, plate_dim: int) -> None:
        super().__init__()
        self._parts = {part.name: part for part in parts}
        self._u, self._plate_dim = u, plate_dim
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
        flat = self._u[..., part.start : part.stop].reshape(*self._u.shape[:-1], *rest)
        coordinates = flat.movedim(lead - 1, where)
        value = transform(coordinates)
        self.log_volumes.append(
            masked_log_volume(msg, transform, coordinates, value)
            if masks_of(msg)
            else transform.log_abs_det_jacobian(coordinates, value)
        )
        msg["value"], msg["done"] = value, True


def _is_observed(msg: Any) -> bool:
    return msg["type"] == "sample" and msg["is_observed"]


def _latent(run: Particles) -> list[Site]:
    return [site for site in samples(run.model_trace) if not site["is_observed"]]


def _coordinates(site: Site) -> Tensor:
    """Return where a site's value lies before the map onto its support."""
    return onto_support(site["fn"]).inv(site["value"])


def _named(fn: Any) -> str:
    try:
        return str(fn.support)
    except NotImplementedError:
        return "a law that declares no support"
