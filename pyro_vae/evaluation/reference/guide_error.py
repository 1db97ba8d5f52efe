"""Errors of a guide against reference draws from the posterior."""

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimate import Estimate
from pyro_vae.evaluation.over_data.guide_draws import GuideDraws
from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.evaluation.reference.bridge import Bridge, bridge
from pyro_vae.evaluation.reference.chain_diagnostics import mean_and_variance
from pyro_vae.evaluation.reference.nuts import log_joint_at
from pyro_vae.evaluation.reference.reference_posterior import R_HAT, ReferencePosterior
from pyro_vae.evaluation.reference.two_sample import two_sample_test
from pyro_vae.evaluation.result import Result
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.precision import MOST_ROUNDING, UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count, check_seed, in_short
from pyro_vae.runtime.roundings import agree
from pyro_vae.runtime.wording import count, rounded_error

POINTS = 500
"""Draws of each law in a two-sample test, at most: its time grows with their square."""

FEWEST_POINTS = 10
"""Effective draws of the reference, below which there is no two-sample test."""

LEVEL = 0.05
"""The p-value below which ``str()`` counts a test."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GuideError(Result):
    """What :func:`guide_error` returns; float64, on the CPU; NaN for data that are not compared."""

    columns = MappingProxyType(
        {"kl": "lower", "forward_kl": "lower", "mean_error_rms": "", "sd_error_rms": "", "num_compared": ""}
    )

    kl: Estimate
    """KL(q(z | x) || p(z | x)) in nats: the inference gap log p(x) - ELBO. NaN where it is not estimable."""
    forward_kl: Estimate
    """KL(p(z | x) || q(z | x)) in nats; NaN where it is not estimable."""
    log_likelihood: Estimate
    """log p(x) by bridge sampling in nats; NaN where it is not estimable."""

    mean_error: Tensor = field(repr=False)
    """(mean of q - mean of p) / sd of p in each unconstrained coordinate, ``(N, dim)``."""
    mean_standard_errors: Tensor = field(repr=False)
    """Monte Carlo standard error of each, ``(N, dim)``."""
    sd_error: Tensor = field(repr=False)
    """(sd of q - sd of p) / sd of p, ``(N, dim)``: below 0 where the guide is too narrow."""
    sd_standard_errors: Tensor = field(repr=False)
    """Monte Carlo standard error of each, ``(N, dim)``."""
    overlap: Tensor = field(repr=False)
    """Draws that both laws have in common, ``(N,)``; too few, and no KL is estimable."""
    mmd2: Tensor = field(repr=False)
    """Squared maximum mean discrepancy of guide and reference, ``(N,)``."""
    p_values: Tensor = field(repr=False)
    """p-values of the hypothesis that both are one law, by permutations, ``(N,)``; not adjusted for their number."""
    guide_draws: Tensor = field(repr=False)
    """The guide's unconstrained u, ``(num_samples, N, dim)``."""
    trusted: Tensor = field(repr=False)
    """Which data have a reference, ``(N,)``."""
    num_samples: int
    no_kl: str | None = None
    """Why there is no KL divergence for any datum, or None."""
    counted: Tensor | None = field(default=None, repr=False)
    """Which coordinates are not masked, ``(N, dim)``, the others being NaN; None where all count."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have log-weights that roundings may move by more than 0.1 nats at the guide's draws, ``(N,)``: their
    KLs and log p(x) are NaN."""

    @property
    def compared(self) -> Tensor:
        """Which data the guide is compared on, ``(N,)``: they have a reference, and the guide's draws are finite."""
        return self.trusted & _are_finite(self.guide_draws, self.counted)

    def facts(self) -> dict[str, Any]:
        """Return the errors in mean and standard deviation, the tests, and on how many data they could be had."""
        where = self.compared if self.counted is None else self.compared.unsqueeze(-1) & self.counted
        return {
            "num_compared": int(self.compared.sum()),
            "mean_error_rms": self.mean_error[where].square().mean().sqrt().item(),
            "sd_error_rms": self.sd_error[where].square().mean().sqrt().item(),
            "no_kl": self.no_kl,
            "num_unresolved": int(self.unresolved.sum()),
            "num_tested": int(self.p_values.isfinite().sum()),
            "num_rejected": int((self.p_values < LEVEL).sum()),
            "num_samples": self.num_samples,
        }

    def __str__(self) -> str:
        facts, num_with_kl = self.facts(), int((~self.kl.left_out).sum())
        text = (
            f"guide against posterior of {count(facts['num_compared'], self.datum)}: mean off by "
            f"{facts['mean_error_rms']:.2g} sd, sd by {100 * facts['sd_error_rms']:.3g} % (root mean squares over "
            f"dims); "
        )
        if num_with_kl:
            text += (
                f"KL(q || p) = {self.kl.mean:.3g} nats/{self.datum} (Monte Carlo s.e. "
                f"{rounded_error(self.kl.standard_error)}"
            )
            if num_with_kl < facts["num_compared"]:
                lost = " or are lost in roundings" if self.unresolved.any() else ""
                text += f"; {num_with_kl} of {facts['num_compared']}, the others overlap too little{lost}"
            text += ")"
        else:
            lost = "roundings hide the weights" if self.unresolved.any() else "guide and posterior overlap too little"
            text += f"KL not estimable: {self.no_kl or lost}"
        text += f"; MMD test: p < {LEVEL} for {facts['num_rejected']} of {facts['num_tested']}"
        if self.unresolved.any():
            text += f"; {UNRESOLVED}"
        left_out = len(self.trusted) - facts["num_compared"]
        return f"{text}; {left_out} left out without a trusted reference or finite draws" if left_out else text


def guide_error(
    reference: ReferencePosterior,
    model: Program,
    guide: Program,
    x: Any,
    *,
    num_samples: int = 1000,
    num_permutations: int = 999,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> GuideError:
    r"""Compare a guide with the posterior: moments, both KL divergences, and a two-sample test.

    .. math::
        \frac{E_q[u] - E_p[u]}{\mathrm{sd}_p[u]}, \quad \frac{\mathrm{sd}_q[u]}{\mathrm{sd}_p[u]} - 1, \quad
        \mathrm{KL}(q \| p) = \log p(x) - E_q[\log p(x, z) - \log q(z | x)], \quad
        \mathrm{KL}(p \| q) = E_p[\log p(x, z) - \log q(z | x)] - \log p(x)

    Moments are those of the unconstrained coordinates u, divergences do not depend on coordinates. log p(x) comes from
    optimal bridge sampling between the reference's draws and the guide's (:mod:`pyro_vae.evaluation.reference.bridge`).
    All standard errors are of first order, with the reference's effective sample sizes in them. The two-sample test
    (:func:`pyro_vae.evaluation.two_sample_test`) takes 500 draws of each at most, the reference's thinned to its
    smallest effective sample size.

    Data without a trusted reference are left out: their entries are NaN, and ``str()`` says how many. A KL is NaN
    where the guide has no density that can be evaluated anywhere (auxiliary variables, a flow without inverse), which
    :attr:`GuideError.no_kl` says, where fewer than 20 draws are common to both laws, and where roundings may move
    log-weights by more than 0.1 nats (:attr:`GuideError.unresolved`).

    Args:
        reference: of this model and these data.
        model: p(x, z).
        guide: q(z | x).
        x: the data ``(N, ...)`` of the reference, or a tuple of all positional arguments.
        num_samples: draws of the guide, at least 2.
        num_permutations: of the two-sample test.
        plate: the batch plate's name, needed only where several plates would do.
        seed: of the guide's draws and of the permutations; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.

    Raises:
        ValueError: no datum has a trusted reference, the reference is of another model or of other data, or
            ``num_samples`` is below 2.
        PairError: model and guide do not fit each other.

    References:
        X.-L. Meng, W. H. Wong (1996), *Simulating ratios of normalizing constants via a simple identity*.
        A. Gretton et al. (2012), *A kernel two-sample test*, JMLR 13.
    """
    check_count("guide_error", "num_samples", num_samples, least=2)
    check_count("guide_error", "num_permutations", num_permutations)
    if seed is not None:
        check_seed("guide_error", seed)
    rows = Rows("guide_error", x, model, guide, plate, progress)
    if not isinstance(reference, ReferencePosterior):
        raise ValueError(f"guide_error: reference must be of pyro_vae.reference_posterior; got {in_short(reference)}.")
    trusted = reference.trusted
    if rows.size != len(trusted):
        raise ValueError(
            f"guide_error: the reference is of {count(len(trusted), 'datum')}; got {rows.size}. Give the same x."
        )
    if not trusted.any():
        raise ValueError(
            f"guide_error: none of the {len(trusted)} data has a trusted reference (R-hat <= {R_HAT} in all dims and "
            f"few divergences): {reference}."
        )
    args = rows.take(slice(None))
    with rows.at_rest(seed):
        joint = Joint("guide_error", model, args, plate)
        somewhere, counted = joint.draw(args, 1), joint.counted(args)
        draws = reference.draws.to(somewhere)
        if counted is not None:
            draws = torch.where(counted, draws, somewhere)
            counted = counted.cpu()
        _check_same(reference, joint, args, draws)
        guide_draws = GuideDraws(joint, model, guide, args, plate)
        step = max(1, current_sizes().rows // rows.size)
        drawn = [guide_draws.draw(args, min(step, num_samples - k)) for k in range(0, num_samples, step)]
        u = torch.cat([part for part, _ in drawn]).double().cpu()
        no_kl = guide_draws.why_no_density(args)
        unresolved = (guide_draws.pair.roundings(args, current_sizes().rows)[0] > MOST_ROUNDING) & trusted
        bridged: Bridge | None = None
        if no_kl is None:
            at_guide = torch.cat([terms.log_weight for _, terms in drawn]).double().cpu()
            flat = draws.flatten(0, 1).split(step)
            log_q = torch.cat([guide_draws.log_density(args, part) for part in flat]).double().cpu()
            volume = torch.cat([joint.terms(args, part).log_volume for part in flat]).double().cpu()
            at_reference = reference.log_joint - (volume + log_q).unflatten(0, draws.shape[:2])
            effective = reference.ess_bulk.nanmean(-1).clamp(max=float(len(volume)))
            bridged = bridge(at_reference, at_guide, effective)
        if counted is not None:
            u = u.masked_fill(~counted, math.nan)
        mmd2, p_values = _two_sample_tests(reference, u, num_permutations, rows)
    compared = trusted & _are_finite(u, counted)
    moments = _moment_errors(reference.draws, u)
    moments = {name: torch.where(compared.unsqueeze(-1), value, math.nan) for name, value in moments.items()}

    def of_bridge(name: str) -> Tensor:
        values = torch.full((rows.size,), math.nan, dtype=torch.float64) if bridged is None else getattr(bridged, name)
        return torch.where(compared & ~unresolved, values, math.nan)

    def estimate(name: str) -> Estimate:
        return Estimate(of_bridge(name), of_bridge(f"{name}_errors"), datum=rows.unit)

    return GuideError(
        kl=estimate("kl"),
        forward_kl=estimate("forward_kl"),
        log_likelihood=estimate("log_evidence"),
        **moments,
        overlap=of_bridge("overlap"),
        mmd2=mmd2,
        p_values=p_values,
        guide_draws=u,
        trusted=trusted,
        num_samples=num_samples,
        no_kl=no_kl,
        datum=rows.unit,
        counted=counted,
        unresolved=unresolved,
    )


def _check_same(reference: ReferencePosterior, joint: Joint, args: tuple[Any, ...], draws: Tensor) -> None:
    """Refuse a reference whose log p(x, u) this model does not give these data."""
    if draws.shape[-1] != joint.dim:
        raise ValueError(
            f"guide_error: the reference has {draws.shape[-1]} dims, the model's latent sites {joint.dim}."
        )
    trusted = reference.trusted
    log_joint = log_joint_at(joint, args, draws[:, -1])[:, trusted.to(draws.device)].cpu()
    expected = reference.log_joint[:, -1, trusted].to(log_joint)
    # The batch may take another kernel, and sums of hundreds of terms.
    if not agree(expected, log_joint, roundings=10_000, eps=torch.finfo(draws.dtype).eps):
        raise ValueError(
            f"guide_error: the reference is of another model or of other data: log p(x, u) of its draws differs by up "
            f"to {(expected - log_joint).abs().max():.3g} nats. Draw it again for this model and x."
        )


def _are_finite(u: Tensor, counted: Tensor | None) -> Tensor:
    """Return which data have draws ``(num_samples, N, dim)`` that are finite wherever no mask hides them, ``(N,)``."""
    finite = u.isfinite()
    return (finite if counted is None else finite | ~counted).all(0).all(-1)


def _moment_errors(draws: Tensor, u: Tensor) -> dict[str, Tensor]:
    """Return errors of mean and standard deviation, relative to the posterior's, with their standard errors.

    A standard error is that of the mean of what each draw adds to the estimate.
    """
    flat = draws.flatten(0, 1)
    mean, variance = flat.mean(0), flat.var(0)
    mean_q, variance_q = u.mean(0), u.var(0)
    scale, ratio = variance.sqrt(), (variance_q / variance).sqrt()
    error = (mean_q - mean) / scale
    # d sd / sd of a draw, in either law.
    spread, spread_q = (draws - mean).square() / variance / 2 - 0.5, (u - mean_q).square() / variance_q / 2 - 0.5

    def standard_errors(of_p: Tensor, of_q: Tensor) -> Tensor:
        return (mean_and_variance(of_p)[1] + of_q.var(0) / len(u)).sqrt()

    return {
        "mean_error": error,
        "mean_standard_errors": standard_errors(-(draws - mean) / scale - error * spread, (u - mean_q) / scale),
        "sd_error": ratio - 1,
        "sd_standard_errors": standard_errors(-ratio * spread, ratio * spread_q),
    }


def _two_sample_tests(
    reference: ReferencePosterior, u: Tensor, num_permutations: int, data: Rows
) -> tuple[Tensor, Tensor]:
    mmd2, p_values = torch.full((2, u.shape[1]), math.nan, dtype=torch.float64)
    with data.bar(u.shape[1], " data") as bar:
        for i in range(u.shape[1]):
            bar.update()
            here = slice(None) if reference.counted is None else reference.counted[i]
            draws, of_guide = reference.draws[:, :, i, here].flatten(0, 1), u[:, i, here]
            if not (reference.trusted[i] and of_guide.isfinite().all()):
                continue
            points = int(min(reference.ess_bulk[i, here].min().item(), len(draws), len(u), POINTS))
            if points < FEWEST_POINTS:
                continue
            rows = torch.linspace(0, len(draws) - 1, points).round().long()
            test = two_sample_test(draws[rows], of_guide[:points], num_permutations)
            mmd2[i], p_values[i] = test.mmd2, test.p_value
    return mmd2, p_values
