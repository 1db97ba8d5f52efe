"""What 40 calls return, to the last bit, so that two versions of the code can be held against each other.

    python -m benchmarks.same_numbers record numbers.json
    python -m benchmarks.same_numbers compare numbers.json

Run both on one machine with one version of torch: another processor rounds otherwise. Every evaluation on two fitted
pairs, the losses and gradients of five objectives, ten training steps at each compile level and the table of a grid are
recorded, and the random state after each call. Where a name in the library changes, the reader of that result changes
here, and its numbers must not.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

import pyro_vae
from pyro_vae import guides, models, objectives
from pyro_vae.evaluation import linear_probe, sharpness, sharpness_ratio, two_sample_test
from pyro_vae.models.priors import VampPrior

SHOWN = 16
"""Values that are written as they are; longer tensors are written as their number, mean and digest."""

LEVELS = ("off", "trace", "inductor")

Numbers = Mapping[str, Any]


class Case(NamedTuple):
    """A fitted pair, and data that it was not fitted to."""

    model: Any
    guide: Any
    x: Tensor


class TwoSites(PyroModule):
    """p(scale) p(w) p(x | scale, w): a positive and a real latent, neither called z."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> None:
        """Score x ``(N, 8)``."""
        with pyro.plate("rows", len(x), dim=-1):
            scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(2), 0.5).to_event(1))
            w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = self.decoder(torch.cat([scale, w], -1))
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


class TwoSitesGuide(PyroModule):
    """q(w | x) q(scale | x), in another order than the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> None:
        """Draw both latents of each row."""
        with pyro.plate("rows", len(x), dim=-1):
            loc, log_scale, log_loc, log_log_scale = self.encoder(x).chunk(4, -1)
            pyro.sample("w", dist.Normal(loc, (log_scale - 1).exp()).to_event(1))
            pyro.sample("scale", dist.LogNormal(log_loc, (log_log_scale - 1).exp()).to_event(1))


@cache
def images() -> Any:
    """The small images that come with the library, made binary once."""
    return pyro_vae.load_data("mnist-5k", binarization="threshold")


def new_vae() -> tuple[Any, Any]:
    """A VAE whose prior looks at its guide, before training."""
    pyro.set_rng_seed(1)
    shape = images().x_shape
    guide = guides.FullRankGuide(shape, 4, (32,))
    return models.VAE(shape, 4, (32,), prior=VampPrior(4, guide, images().train, num_components=10)), guide


@cache
def fitted_vae() -> Case:
    """The VAE after an epoch."""
    model, guide = new_vae()
    pyro_vae.fit(model, guide, images(), epochs=1, seed=0, compile="off", progress=False)
    return Case(model, guide, images().test[:20])


@cache
def fitted_program() -> Case:
    """The program of two sites after ten epochs on data of its own."""
    pyro.set_rng_seed(2)
    model, guide = TwoSites(), TwoSitesGuide()
    x = torch.randn(300, 8)
    pyro_vae.fit(model, guide, x, epochs=10, seed=0, batch_size=100, compile="off", progress=False)
    return Case(model, guide, x[:20])


CASES: dict[str, Callable[[], Case]] = {"vae": fitted_vae, "program": fitted_program}


def read(result: Any, *names: str, **paths: str) -> Numbers:
    """Return the named attributes, others by a label and a dotted path, and what the result prints."""
    attributes = {name: name for name in names} | paths
    return {**{label: attrgetter(path)(result) for label, path in attributes.items()}, "str": str(result)}


def weights(case: Case) -> Numbers:
    """Return log-weights of a few draws."""
    return {"log_weights": pyro_vae.log_weights(case.model, case.guide, case.x, 7)}


def likelihood(case: Case, **options: Any) -> Numbers:
    """Return the importance-weighted log-likelihood."""
    result = pyro_vae.log_likelihood(case.model, case.guide, case.x, 300, seed=3, **options)
    return read(
        result, "per_datum", "standard_errors", "ess", "pareto_k", "flagged", "mean", "standard_error",
        "data_standard_error",
    )  # fmt: skip


def elbo(case: Case) -> Numbers:
    """Return the ELBO and its terms."""
    result = pyro_vae.elbo_terms(case.model, case.guide, case.x, 20, seed=3)
    return read(
        result, elbo="elbo.per_datum", reconstruction="reconstruction.per_datum", rate="rate.per_datum",
        mean="elbo.mean", standard_error="elbo.standard_error", data_standard_error="elbo.data_standard_error",
    )  # fmt: skip


def units(case: Case) -> Numbers:
    """Return active units."""
    return read(pyro_vae.active_units(case.guide, case.x, num_samples=20), "variance")


@cache
def gaps_of(name: str, family: str) -> Any:
    """Gaps with a family, computed once: the budget is made of them too."""
    case = CASES[name]()
    return pyro_vae.inference_gaps(
        case.model, case.guide, case.x[:4], family=family, num_samples=64, evidence_samples=100, max_steps=100, seed=3,
        progress=False,
    )  # fmt: skip


def gaps(case: Case, name: str, family: str) -> Numbers:
    """Return inference gaps with one family."""
    del case
    return read(
        gaps_of(name, family), "converged", "steps", elbo="elbo.per_datum", best_elbo="best_elbo.per_datum",
        log_evidence="log_likelihood.per_datum", approximation_gap="approximation_gap.per_datum",
        amortization_gap="amortization_gap.per_datum", inference_gap="inference_gap.per_datum",
    )  # fmt: skip


def annealed(case: Case, *, guided: bool) -> Any:
    """Return what annealed importance sampling gives."""
    return pyro_vae.ais(
        case.model, case.x[:4], guide=case.guide if guided else None, num_temperatures=20, num_chains=4,
        num_leapfrog=3, burn_in=10, seed=3, progress=False,
    )  # fmt: skip


def ais(case: Case, *, guided: bool) -> Numbers:
    """Return annealed importance sampling."""
    return read(annealed(case, guided=guided), "per_datum", "standard_errors", "ess", "acceptance", "mean")


def sandwich(case: Case) -> Numbers:
    """Return bounds from both sides, on data of the model."""
    result = pyro_vae.bdmc(
        case.model, case.x[:4], num_temperatures=20, num_chains=4, num_leapfrog=3, burn_in=10, seed=3, progress=False
    )
    return read(
        result, lower="lower.per_datum", upper="upper.per_datum", width="width.per_datum",
        lower_standard_errors="lower.standard_errors", upper_standard_errors="upper.standard_errors", mean="width.mean",
    )  # fmt: skip


@cache
def reference_of(name: str) -> Any:
    """Draws by NUTS, made once: a guide is held against them, where they are cheap enough to be many."""
    case, many = CASES[name](), name == "program"
    return pyro_vae.reference_posterior(
        case.model, case.x[:2], num_chains=2, num_samples=300 if many else 20, warmup=200 if many else 20, seed=3,
        progress=False,
    )  # fmt: skip


def reference(case: Case, name: str) -> Numbers:
    """Return draws by NUTS and their diagnostics."""
    del case
    return read(reference_of(name), "draws", "r_hat", "ess_bulk", "ess_tail", "mean", "sd")


def guide_error(case: Case, name: str) -> Numbers:
    """Return the guide held against the draws by NUTS."""
    result = pyro_vae.guide_error(
        reference_of(name), case.model, case.guide, case.x[:2], num_samples=100, num_permutations=19, seed=3,
        progress=False,
    )  # fmt: skip
    return read(
        result, "mean_error", "sd_error", "p_values", kl="kl.per_datum", forward_kl="forward_kl.per_datum",
        log_evidence="log_likelihood.per_datum",
    )  # fmt: skip


def calibration(case: Case) -> Numbers:
    """Return simulation-based calibration."""
    result = pyro_vae.sbc(case.model, case.guide, case.x, num_data=50, num_draws=19, seed=3, progress=False)
    return read(result, "ranks", "p_values", "adjusted")


def latents(case: Case) -> Numbers:
    """Return statistics of the latents."""
    result = pyro_vae.latent_statistics(case.model, case.guide, case.x, num_samples=5, seed=3, progress=False)
    means = {
        name: (mean.mean, mean.standard_error)
        for name in ("rate", "distortion", "mutual_information", "marginal_kl")
        if (mean := getattr(result, name)) is not None
    }
    return {**means, **read(result, "kl_per_unit", "kl_per_unit_errors")}


def budget(case: Case, name: str) -> Numbers:
    """Return the evidence budget, of every K and with gaps and annealing."""
    ks = (1, 10, 100)
    result = pyro_vae.evidence_budget(
        case.model, case.guide, case.x[:4], ks=ks, gaps=gaps_of(name, "diagonal"),
        ais=annealed(case, guided=True), seed=3, progress=False,
    )  # fmt: skip
    titles = {"elbo": "ELBO", "ais": "AIS", **{f"iwae_{k}": f"IWAE-{k}" for k in ks}}
    terms = {
        titles.get(term, term.replace("_", " ")): (value.per_datum, value.standard_errors)
        for term, value in result.terms.items()
    }
    return {**terms, "str": str(result)}


def exported(case: Case) -> Numbers:
    """Return what is exported for ArviZ."""
    groups = ("posterior", "prior", "log_likelihood")
    found = pyro_vae.to_inference_data(
        case.model, case.guide, case.x[:4], num_samples=5, num_chains=2, groups=groups, seed=3, progress=False
    )
    return {
        f"{group}/{name}": np.asarray(found[group][name]) for group in groups for name in sorted(found[group].data_vars)
    }


def probe(case: Case) -> Numbers:
    """Return a linear probe of the means, on made-up labels."""
    labels = torch.arange(200) % 3
    x = images().train[:200] + 0.0
    x[:, :, :3] = labels.reshape(-1, 1, 1, 1) / 2
    result = linear_probe(case.guide, x[:150], labels[:150], x[150:], labels[150:])
    return {
        "correct": result.accuracy.per_datum.bool(),
        "accuracy": result.accuracy.mean,
        "str": str(result),
    }


def sharp(case: Case) -> Numbers:
    """Return sharpness of images."""
    ratio = sharpness_ratio(case.x, images().train[:20].float())
    return {"sharpness": sharpness(case.x), **read(ratio, "ratio", "standard_error")}


def two_samples(case: Case) -> Numbers:
    """Return the two-sample test."""
    left, right = case.x[:10].flatten(1).double(), case.x[10:].flatten(1).double()
    return {"str": str(two_sample_test(left, right, num_permutations=99))}


OBJECTIVES: dict[str, Callable[[], Any]] = {
    "Trace_ELBO": Trace_ELBO,
    "BetaELBO": partial(objectives.BetaELBO, 0.5),
    "IWAE": partial(objectives.IWAE, 4),
    "StickingTheLanding": objectives.StickingTheLanding,
    "DReG": partial(objectives.DReG, 4),
}


def gradient(case: Case, objective: Any) -> Numbers:
    """Return loss and gradient of an objective."""
    pyro.set_rng_seed(4)
    module = objective()(case.model, case.guide)
    loss = module(case.x)
    parameters = [p for p in module.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {"loss": loss, "gradients": torch.cat([g.flatten() for g in grads if g is not None])}


def steps(level: str) -> Numbers:
    """Return ten steps of training."""
    model, guide = new_vae()
    x = images().train[:320]
    run = pyro_vae.fit(model, guide, x, epochs=1, batch_size=32, seed=5, compile=level, progress=False)
    parameters = [p.flatten() for module in (model, guide) for p in module.parameters()]
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]
    return {"history": json.dumps(history), "parameters": torch.cat(parameters)}


GRID = """
common:
  data: mnist-5k
  epochs: 1
  latent_dim: 2
  hidden_dims: [16]
  num_samples: 50
  num_gaps: 2
grid:
  guide: [mean_field, full_rank]
  seed: [0, 1]
"""


def table() -> Numbers:
    """Return the table of a grid of four cells."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.yaml"
        grid.write_text(GRID)
        result = pyro_vae.compare(str(grid), out=Path(folder) / "out", progress=False)
        frame = result.table
        numbers = frame.select_dtypes("number").drop(columns=[c for c in frame if "second" in c])
        return {"table": numbers.to_csv(), "str": str(result).replace(folder, "")}


def calls() -> Iterator[tuple[str, Callable[[], Numbers]]]:
    """Names and calls, in the order in which they are made."""
    for name, case in CASES.items():
        one: dict[str, Callable[[Case], Numbers]] = {
            "log_weights": weights,
            **{f"log_likelihood {level}": partial(likelihood, compile=level) for level in LEVELS},
            "log_likelihood to a target": partial(likelihood, compile="off", target_se=0.05),
            "elbo_terms": elbo,
            "active_units": units,
            **{f"inference_gaps {f}": partial(gaps, name=name, family=f) for f in ("diagonal", "full_rank", "flow")},
            "ais from the prior": partial(ais, guided=False),
            "ais from the guide": partial(ais, guided=True),
            "bdmc": sandwich,
            "reference_posterior": partial(reference, name=name),
            "sbc": calibration,
            "latent_statistics": latents,
            "evidence_budget": partial(budget, name=name),
            "to_inference_data": exported,
            **{f"objective {title}": partial(gradient, objective=make) for title, make in OBJECTIVES.items()},
        }
        if name == "program":
            one["guide_error"] = partial(guide_error, name=name)
        else:
            one |= {"linear_probe": probe, "sharpness": sharp, "two_sample_test": two_samples}
        for title, call in one.items():
            yield f"{name}: {title}", partial(_on, case, call)
    for level in LEVELS:
        yield f"ten steps {level}", partial(steps, level)
    yield "grid", table


def _on(case: Callable[[], Case], call: Callable[[Case], Numbers]) -> Numbers:
    return call(case())


def written(value: Any) -> Any:
    """Return a value as JSON that keeps every bit."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, tuple | list):
        return [written(part) for part in value]
    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    if tensor.numel() <= SHOWN:
        return [repr(number) for number in tensor.flatten().tolist()]
    digest = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    return {"shape": list(tensor.shape), "mean": repr(tensor.double().mean().item()), "sha256": digest}


def record(progress: Callable[[str], None]) -> dict[str, Any]:
    """Make every call and return what it gave, by name."""
    recorded = {}
    for name, call in calls():
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            numbers = {key: written(value) for key, value in call().items()}
        state = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
        recorded[name] = {**numbers, "random state": state}
        progress(name)
    return recorded


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each call or value that is not the same."""
    lines = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            lines.append(f"{name}: only {'now' if old is None else 'before'}")
            continue
        for key in [*old, *(key for key in new if key not in old)]:
            if old.get(key) != new.get(key):
                lines.append(f"{name}, {key}: was {old.get(key)}, is {new.get(key)}")
    return lines


def main() -> int:
    """Record, or compare and return 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    now = record(lambda name: print(name, file=sys.stderr))
    if options.what == "record":
        options.file.write_text(json.dumps(now, indent=1))
        return 0
    lines = differences(json.loads(options.file.read_text()), now)
    print("\n".join(lines) or f"the same numbers in {len(now)} calls")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
