"""Where ArviZ 0.x and 1.x differ in how groups of data are held, and only there."""

import warnings
from collections.abc import Mapping
from typing import Any

from pyro_vae.runtime.caches import a_cache


def as_inference_data(groups: Mapping[str, Any]) -> Any:
    """Return groups of ``xarray.Dataset`` as the ``arviz.InferenceData`` of ArviZ 0.x.

    From 1.0 on ArviZ works on xarray's own tree of data sets, and an ``xarray.DataTree`` is returned. Both hold a
    group as ``result["posterior"]`` or ``result.posterior``, and write themselves with ``result.to_netcdf(path)``.
    """
    older = _inference_data()
    if older is not None:
        return older(**groups)
    from xarray import DataTree

    return DataTree.from_dict(dict(groups))


def read_inference_data(path: Any) -> Any:
    """Return what :func:`as_inference_data` made and ``to_netcdf`` wrote, all of it in memory."""
    older = _inference_data()
    if older is not None:
        return older.from_netcdf(str(path)).load()
    from xarray import open_datatree

    with open_datatree(path) as tree:
        return tree.load()


def _inference_data() -> Any:
    """Return the class of ArviZ 0.x, or None."""
    with warnings.catch_warnings(), a_cache():
        # ArviZ 0.x announces its successor on import.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)
        import arviz
    # By the dict: 1.x warns whoever asks the module itself for it.
    return vars(arviz).get("InferenceData")
