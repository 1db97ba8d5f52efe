"""The posterior of a few data by Markov chains, as a reference for guides."""

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation.over_data.rows import Rows
from pyro_vae.evaluation.over_data.run_sizes import current_sizes
from pyro_vae.evaluation.reference.chain_diagnostics import ess, mean_and_variance, r_hat
from pyro_vae.evaluation.reference.nuts import DatumDensity, log_joint_at, run_chain, starts_of
from pyro_vae.evaluation.result import Result
from pyro_vae.programs.joint import Joint
from pyro_vae.programs.precision import MOST_ROUNDING, UNRESOLVED
from pyro_vae.protocols import Program
from pyro_vae.runtime.checks import check_count
from pyro_vae.runtime.wording import count

R_HAT = 1.01
"""The largest R-hat of a reference (Vehtari et al. 2021)."""

DIVERGENT_SHARE = 0.001
"""The largest share of divergent transitions of a reference. A region that chains cannot enter causes many more; single
ones also follow from a step size that is a little too large."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferencePosterior(Result):
    """What :func:`reference_posterior` returns; float64, on the CPU."""

    columns = MappingProxyType({"num_trusted": "", "largest_r_hat": "", "smallest_ess_bulk": ""})

    draws: Tensor = field(repr=False)
    """Unconstrained u, ``(num_chains, num_samples, N, dim)``; NaN for a datum without a finite density to start at, and
    where a mask hides a latent element."""
    values: dict[str, Tensor] = field(repr=False)
    """The latent sites' values at these draws, each ``(num_chains, num_samples, *its own shape)``."""
    log_joint: Tensor = field(repr=False)
    """log p(x, u) in nats, ``(num_chains, num_samples, N)``."""
    r_hat: Tensor = field(repr=False)
    """Rank-normalized split R-hat, ``(N, dim)``."""
    ess_bulk: Tensor = field(repr=False)
    """Effective sample size of the bulk, ``(N, dim)``."""
    ess_tail: Tensor = field(repr=False)
    """Effective sample size of the 5 % and 95 % quantiles, the smaller one, ``(N, dim)``."""
    divergences: Tensor = field(repr=False)
    """Divergent transitions after warmup, all chains, ``(N,)``, int64."""
    warmup: int
    counted: Tensor | None = field(default=None, repr=False)
    """Which coordinates are not masked, ``(N, dim)``; None where all count."""
    unresolved: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False)
    """Which data have a log p(x, u) that roundings may move by more than 0.1 nats at the last draws, ``(N,)``."""

    @property
    def trusted(self) -> Tensor:
        """Which data have draws that can be trusted, ``(N,)``.

        R-hat is at most 1.01 in all dims, at most 1 in 1000 transitions diverged, and roundings move log p(x, u) by at
        most 0.1 nats.
        """
        num_draws = self.draws.shape[0] * self.draws.shape[1]
        mixed = self.r_hat <= R_HAT
        if self.counted is not None:
            mixed = (mixed | ~self.counted) & self.counted.any(-1, keepdim=True)
        trusted = mixed.all(-1) & (self.divergences <= DIVERGENT_SHARE * num_draws)
        return trusted & ~self.unresolved if len(self.unresolved) else trusted

    def of_counted(self, values: Tensor) -> Tensor:
        """Return values ``(N, dim)`` of the coordinates that count, as one vector; NaN where there are none."""
        counted = values.flatten() if self.counted is None else values[self.counted]
        return counted if len(counted) else values.new_full((1,), math.nan)

    @property
    def mean(self) -> Tensor:
        """Posterior mean of u, ``(N, dim)``."""
        return self.draws.flatten(0, 1).mean(0)

    @property
    def mean_standard_error(self) -> Tensor:
        """Monte Carlo standard error of the mean, from its effective sample size, ``(N, dim)``."""
        return mean_and_variance(self.draws)[1].sqrt()

    @property
    def sd(self) -> Tensor:
        """Posterior standard deviation of u, ``(N, dim)``."""
        return self.draws.flatten(0, 1).std(0)

    @property
    def sd_standard_error(self) -> Tensor:
        """Monte Carlo standard error of the standard deviation, to first order, ``(N, dim)``."""
        return mean_and_variance((self.draws - self.mean).square())[1].sqrt() / (2 * self.sd)

    def facts(self) -> dict[str, Any]:
        """Return how chains mixed, and for how many data the draws can be trusted."""
        num_chains, num_samples, num_data, dim = self.draws.shape
        return {
            "num_data": num_data,
            "dim": dim,
            "num_trusted": int(self.trusted.sum()),
            "largest_r_hat": self.of_counted(self.r_hat).max().item(),
            "smallest_ess_bulk": self.of_counted(self.ess_bulk).min().item(),
            "smallest_ess_tail": self.of_counted(self.ess_tail).min().item(),
            "divergences": int(self.divergences.sum()),
            "num_unresolved": int(self.unresolved.sum()),
            "num_chains": num_chains,
            "num_samples": num_samples,
            "warmup": self.warmup,
        }

    def __str__(self) -> str:
        facts = self.facts()
        text = (
            f"posterior of {count(facts['num_data'], self.datum)} in {count(facts['dim'], 'dim')} by NUTS "
            f"({facts['num_chains']} chains x {count(facts['num_samples'], 'draw')}): {facts['num_trusted']} of "
            f"{facts['num_data']} trusted, largest R-hat {facts['largest_r_hat']:.4f}, ESS >= "
            f"{facts['smallest_ess_bulk']:.0f} (bulk) and {facts['smallest_ess_tail']:.0f} (tail), "
            f"{count(facts['divergences'], 'divergence')}"
        )
        if self.unresolved.any():
            text += f"; {UNRESOLVED}"
        if facts["num_trusted"] + facts["num_unresolved"] < facts["num_data"]:
            text += (
                f"; the others (R-hat > {R_HAT}, or more than {100 * DIVERGENT_SHARE:g} % divergent) are no "
                f"reference. Use more draws and a longer warmup, or look for several modes"
            )
        return text


def reference_posterior(
    model: Program,
    x: Any,
    *,
    num_chains: int = 4,
    num_samples: int = 1000,
    warmup: int = 500,
    plate: str | None = None,
    seed: int | None = None,
    progress: bool | None = None,
) -> ReferencePosterior:
    r"""Draw from p(z | x) of a few chosen data by the no-U-turn sampler, and say whether the draws can be trusted.

    Chains follow the gradient of log p(x, u), u the latent values without their constraints
    (:class:`pyro_vae.programs.joint.Joint`). Each datum has chains of its own, with step size and diagonal mass matrix
    of their own; they run one after the other, and start at draws from the prior, which is wider than the posterior.
    Modules run in evaluation mode and come back as they were.

    Args:
        model: p(x, z), any Pyro program with one vectorized batch plate and continuous latent sites, that takes one
            datum as well as many.
        x: data ``(N, ...)``, or a tuple of all positional arguments, of which tensors of length N are cut along their
            first dim. A datum takes about as long as ``num_chains * (num_samples + warmup)`` times 3 to 15 gradients.
        num_chains: at least 2: R-hat compares chains.
        num_samples: draws kept of each chain, at least 4.
        warmup: steps of each chain before, in which step size and mass matrix are adapted.
        plate: the batch plate's name, needed only where several plates would do.
        seed: of the chains; None draws from the global generator.
        progress: show a bar; None shows it on a terminal only.

    Returns:
        :class:`ReferencePosterior`; ``print`` it for one line. R-hat tells of modes that chains do not leave, and not
        of one that no chain ever saw: more chains find more. Look at :attr:`ReferencePosterior.trusted`: a datum
        whose chains disagree stays in it, and is left out by :func:`pyro_vae.evaluation.guide_error`.

    Raises:
        ValueError: too few chains or draws, x is empty or not finite, a latent site is discrete, or the density of a
            datum depends on the data beside it.
        PairError: the model has no batch plate.
        SupportError: x lies outside the likelihood's support.

    References:
        M. Hoffman, A. Gelman (2014), *The no-U-turn sampler*, JMLR 15, arXiv 1111.4246.
        A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner (2021), *Rank-normalization, folding, and
        localization: an improved R-hat*, arXiv 1903.08008.

    >>> from pyro_vae.models import LinearGaussian
    >>> model = LinearGaussian(x_dim=4, latent_dim=2)
    >>> reference = reference_posterior(model, torch.zeros(1, 4), num_chains=2, num_samples=10, warmup=10, seed=0)
    >>> reference.draws.shape, reference.values["z"].shape, reference.r_hat.shape
    (torch.Size([2, 10, 1, 2]), torch.Size([2, 10, 1, 2]), torch.Size([1, 2]))
    """
    why = ", for R-hat to compare halves of several chains"
    for name, number, least in (("num_chains", num_chains, 2), ("num_samples", num_samples, 4)):
        check_count("reference_posterior", name, number, least, why)
    check_count("reference_posterior", "warmup", warmup)
    rows = Rows("reference_posterior", x, model, None, plate, progress)
    rows.refuse_whole("its chains run datum by datum")
    everything = rows.take(slice(None))
    with rows.at_rest(seed), torch.enable_grad():
        joint = Joint("reference_posterior", model, everything, plate)
        rows.check_support(model, everything)
        rows.check_masks(joint)
        masked = joint.counted(everything)
        starts = starts_of(joint, everything, num_chains)
        counted = torch.ones_like(starts[0], dtype=torch.bool) if masked is None else masked
        density = DatumDensity("reference_posterior", joint, rows, starts)
        draws = torch.full((num_chains, num_samples, rows.size, joint.dim), math.nan, dtype=starts.dtype)
        divergences = torch.zeros(rows.size, dtype=torch.int64)
        steps = warmup + num_samples
        total = rows.size * num_chains * steps
        with rows.bar(total, " steps") as bar:
            for i in range(rows.size):
                here = counted[i]
                if not (starts[:, i].isfinite().all() and here.any()):
                    bar.update(num_chains * steps)
                    continue
                for chain in range(num_chains):
                    start = starts[chain, i]
                    moving = start[here].double() if joint.pair.wide else start[here]
                    of_chain, divergent = run_chain(density.of(i, here, start), moving, num_samples, warmup, bar.update)
                    draws[chain, :, i, here.cpu()] = of_chain.to(draws)
                    divergences[i] += divergent
        at = torch.where(counted, draws.to(rows.device), starts[0])
        values, log_joint = _at_draws(joint, everything, at)
        unresolved = (joint.rounding(everything, at[:, -1]) > MOST_ROUNDING).any(0)
        for name, mask in () if masked is None else joint.shown(everything).items():
            values[name] = values[name].masked_fill(~mask.cpu(), math.nan)
    return ReferencePosterior(
        draws=draws.double(),
        values=values,
        log_joint=log_joint,
        r_hat=r_hat(draws),
        ess_bulk=ess(draws, "bulk"),
        ess_tail=ess(draws, "tail"),
        divergences=divergences,
        warmup=warmup,
        counted=None if masked is None else masked.cpu(),
        unresolved=unresolved,
        datum=rows.unit,
    )


def _at_draws(joint: Joint, args: tuple[Any, ...], draws: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return the latent sites' values, and log p(x, u), at draws ``(num_chains, num_samples, N, dim)``."""
    lead = draws.shape[:2]
    flat = draws.flatten(0, 1)
    with torch.no_grad():
        step = max(1, current_sizes().rows // flat.shape[1])
        parts = [joint.values(args, part) for part in flat.split(step)]
    values = {name: torch.cat([part[name] for part in parts]).double().cpu().unflatten(0, lead) for name in parts[0]}
    return values, log_joint_at(joint, args, flat).double().cpu().unflatten(0, lead)
