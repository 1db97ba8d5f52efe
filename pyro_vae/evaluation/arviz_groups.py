"""The differences between ArviZ 0.x and 1.x that matter here."""

import warnings
from collections.abc import Mapping
from typing import Any

from pyro_vae.runtime.caches import a_cache


def import_arviz() -> Any:
    """Return the module ``arviz``, of 0.x without the announcement of its successor."""
    with warnings.catch_warnings(), a_cache():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    return arviz


def as_inference_data(groups: Mapping[str, Any]) -> Any:
    """Return groups of ``xarray.Dataset`` as the ``arviz.InferenceData`` of ArviZ 0.x.

    From 1.0 on ArviZ works on xarray's own tree of data sets, and an ``xarray.DataTree`` is returned. Both hold a
    group as ``result["posterior"]`` or ``result.posterior``, and write themselves with ``result.to_netcdf(path)``.
    """
    # By the dict: 1.x warns whoever asks the module itself for it.
    older = vars(import_arviz()).get("InferenceData")
    if older is not None:
        return older(**groups)
    from xarray import DataTree

    return DataTree.from_dict(dict(groups))
