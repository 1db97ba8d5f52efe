"""Comparisons that nobody computed, with numbers by formula: for what is said and drawn of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pyro_vae.comparison import Cell, CellResult, Comparison, Grid
from pyro_vae.comparison.run_cell import fit_cell

GAPS = ("approximation_gap", "amortization_gap")


def made_up_result(
    cell: Cell, out: Path, *, level: float = 0.0, num_images: int = 20, num_gaps: int = 6, epochs: int = 3,
    khat: float = 0.4, valid: bool = True,
) -> CellResult:  # fmt: skip
    """A finished cell whose ELBO is about ``level - 100``; gaps are those of the first images."""
    noise = torch.Generator().manual_seed(int(cell.hash, 16) % 2**31)

    def draws(size: int, mean: float, scale: float) -> torch.Tensor:
        return mean + scale * torch.randn(size, dtype=torch.float64, generator=noise)

    rate, gaps = draws(num_images, 20 + level / 4, 2), [draws(num_gaps, mean, 0.2) for mean in (0.5, 1.0)]
    elbo = draws(num_images, level - 100, 5)
    per_datum = {
        "elbo": elbo,
        "reconstruction": elbo + rate,
        "rate": rate,
        "log_likelihood": elbo + draws(num_images, 1.6, 0.1),
        "log_likelihood_standard_errors": torch.full((num_images,), 0.05, dtype=torch.float64),
        "pareto_k": draws(num_images, khat, 0.2),
    }
    evaluation: dict[str, Any] = {
        "elbo": {"elbo_nats": elbo.mean().item(), "standard_error": 0.03, "data_standard_error": 1.1,
                 "reconstruction_nats": (elbo + rate).mean().item(), "reconstruction_standard_error": 0.04,
                 "rate_nats": rate.mean().item(), "rate_standard_error": 0.02},
        "log_likelihood": {"log_likelihood_nats": per_datum["log_likelihood"].mean().item(), "standard_error": 0.01,
                           "data_standard_error": 1.1, "khat_threshold": 0.63, "bound": True},
        "active_units": 3,
        "most_active": list(range(cell.latent_dim)),
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
    if num_gaps:
        per_datum |= dict(zip(GAPS, gaps, strict=True)) | {"inference_gap": sum(gaps, torch.zeros(()).double())}
        evaluation["gaps"] = {f"{name}_standard_error": 0.02 for name in (*GAPS, "inference_gap")}
        evaluation["gaps"] |= {f"{name}_data_standard_error": 0.1 for name in (*GAPS, "inference_gap")}
        evaluation["gaps"] |= {f"{name}_nats": per_datum[name].mean().item() for name in (*GAPS, "inference_gap")}
        evaluation["gaps"] |= {"num_data": num_gaps, "family": "diagonal", "num_flagged": 0, "num_not_converged": 0}
    history = [
        {"epoch": float(epoch), "train_bound_nats": level - 100 - 80 / epoch, "kl_weight": 1.0,
         "valid_bound_nats": level - 101 - 80 / epoch if valid else math.nan, "learning_rate": 1e-3, "seconds": 3.0}
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    return CellResult(cell, out / "cells" / cell.hash, evaluation, per_datum, history)


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
