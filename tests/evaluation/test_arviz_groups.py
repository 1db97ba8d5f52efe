"""Groups of data sets as the ArviZ that is installed holds them."""

import numpy as np

from pyro_vae.evaluation.arviz_groups import as_inference_data


def test_groups_are_read_back_as_they_were_written(tmp_path):
    import xarray

    posterior = xarray.Dataset(
        {"z": (["chain", "draw", "datum"], np.random.default_rng(0).normal(size=(2, 5, 3)))},
        coords={"chain": range(2), "draw": range(5), "datum": range(3)},
    )
    stats = xarray.Dataset({"flagged": (["datum"], np.array([True, False, True]))}, coords={"datum": range(3)})
    made = as_inference_data({"posterior": posterior, "sample_stats": stats})
    made.to_netcdf(str(tmp_path / "groups.nc"))
    for name, expected in (("posterior", posterior), ("sample_stats", stats)):
        for group in (made[name], xarray.load_dataset(tmp_path / "groups.nc", group=name)):
            xarray.testing.assert_equal(xarray.Dataset(group.data_vars, group.coords), expected)
