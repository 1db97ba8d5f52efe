"""Comparisons that nobody computed, with numbers by formula: for what is said and drawn of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pyro_vae.comparison import Cell, CellResult, Comparison, Grid
from pyro_vae.comparison.measure import Measured
from pyro_vae.comparison.run_cell import fit_cell
from pyro_vae.evaluation import ElboTerms, Estimate, InferenceGaps, LogLikelihood


def of(values: torch.Tensor, error: float) -> Estimate:
    """An estimate whose mean has a Monte Carlo error, all images the same."""
    return Estimate(values, torch.full_like(values, error * math.sqrt(len(values))), datum="image")


def made_up_result(
    cell: Cell, out: Path, *, level: float = 0.0, num_images: int = 20, num_gaps: int = 6, epochs: int = 3,
    khat: float = 0.4, valid: bool = True,
) -> CellResult:  # fmt: skip
    """A finished cell whose ELBO is about ``level - 100``; gaps are those of the first images."""
    noise = torch.Generator().manual_seed(int(cell.hash, 16) % 2**31)

    def draws(size: int, mean: float, scale: float) -> torch.Tensor:
        return mean + scale * torch.randn(size, dtype=torch.float64, generator=noise)

    rate, elbo = draws(num_images, 20 + level / 4, 2), draws(num_images, level - 100, 5)
    threshold, khats = 0.63, draws(num_images, khat, 0.2)
    evidence = LogLikelihood(
        per_datum=elbo + draws(num_images, 1.6, 0.1),
        standard_errors=torch.full_like(elbo, 0.01 * math.sqrt(num_images)),
        ess=torch.full_like(elbo, 300.0), pareto_k=khats, num_samples=math.floor(10 ** (1 / (1 - threshold))),
        without_mass=khats < -math.inf, lost=khats < -math.inf, datum="image",
    )  # fmt: skip
    measured = Measured()
    measured.add(
        "elbo_terms",
        ElboTerms(elbo=of(elbo, 0.03), reconstruction=of(elbo + rate, 0.04), rate=of(rate, 0.02), num_samples=100),
    )
    measured.add("log_likelihood", evidence)
    measured.summaries["log_likelihood"]["khat_threshold"] = threshold
    measured.summaries["active_units"] = {"active_units": 3, "most_active": list(range(cell.latent_dim))}
    if num_gaps:
        approximation, amortization = (draws(num_gaps, mean, 0.2) for mean in (0.5, 1.0))
        first = elbo[:num_gaps]
        gaps = InferenceGaps(
            inference_gap=of(approximation + amortization, 0.02), approximation_gap=of(approximation, 0.02),
            amortization_gap=of(amortization, 0.02), elbo=of(first, 0.02), best_elbo=of(first + amortization, 0.02),
            log_likelihood=of(first + amortization + approximation, 0.02),
            converged=torch.ones(num_gaps, dtype=torch.bool), steps=torch.ones(num_gaps), family="diagonal",
            evidence_source="IWAE-5000 with q", num_samples=1000,
        )  # fmt: skip
        measured.add("inference_gaps", gaps)
    evaluation: dict[str, Any] = {
        "measured": measured.summaries,
        "in_words": ["a line"],
        "epochs": epochs,
        "compiled": "trace",
        "fit_seconds": 10.0 + cell.seed,
        "evaluation_seconds": 4.5,
        "model_parameters": 16544,
        "guide_parameters": 1000 * (1 + int(level) % 7),
        "data": {"name": cell.data, "binarization": "stochastic", "seed": 0, "sizes": {"train": 4000, "test": 20},
                 "x_shape": [1, 28, 28], "content_hash": "c0ffee"},
        "test_images": "e7f6557d2d9650d9",
        "environment": {"python": "3.12.1", "torch": "2.9.0", "pyro": "1.9.2", "machine": "x86_64", "threads": 2},
    }  # fmt: skip
    history = [
        {"epoch": float(epoch), "train_bound_nats": level - 100 - 80 / epoch, "kl_weight": 1.0,
         "valid_bound_nats": level - 101 - 80 / epoch if valid else math.nan, "learning_rate": 1e-3, "seconds": 3.0}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    return CellResult(cell, out / "cells" / cell.hash, evaluation, measured.per_datum, history)


def made_up_comparison(
    out: Path, description: dict[str, Any], failed: Sequence[int] = (), **options: Any
) -> Comparison:
    """A comparison of a grid's cells, of which each configuration is better than the last by a nat."""
    grid = Grid.of(description)
    levels: dict[Cell, float] = {}
    results = []
    for number, cell in enumerate(grid.cells):
        level = levels.setdefault(cell.with_seed(0), float(len(levels)))
        if number in failed:
            results.append(CellResult(cell, out / "cells" / cell.hash, error="ValueError: no <b>luck</b>\n\nTraceback"))
        else:
            results.append(made_up_result(cell, out, level=level, **options))
    return Comparison(out, results, grid.varying)


TWO_BY_TWO = {"grid": {"guide": ["mean_field", "iaf(num_flows=2)"], "seed": [0, 1]}, "common": {"latent_dim": 3}}
"""Two configurations of two seeds; the second is better by a nat."""

LARGE = {
    "grid": {
        "guide": ["mean_field", "full_rank", "iaf(num_flows=4)"],
        "prior": ["standard_normal", "vamp(num_components=50)", "flow"],
        "latent_dim": [10, 20, 50],
        "seed": [0, 1],
    }
}
"""54 cells of 27 configurations."""

FITTED = {
    "grid": {"guide": ["mean_field", "iaf(num_flows=1, flow_hidden_dims=[5])"], "seed": [0, 1]},
    "common": {"latent_dim": 3, "hidden_dims": [10], "epochs": 1, "batch_size": 200, "num_test": 20, "compile": "off"},
}
"""Cells that are fitted in a second."""


def fit_some(comparison: Comparison, numbers: Sequence[int]) -> None:
    """Really fit some cells of a comparison in their folders, so that there are networks to draw from."""
    for number in numbers:
        result = comparison.results[number]
        result.path.mkdir(parents=True)
        fit_cell(result.cell, result.path, progress=False)
