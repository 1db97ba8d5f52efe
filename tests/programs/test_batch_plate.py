"""The plate and the sites of traces, as they are; what a pair does with them is in test_pair.py."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

from pyro_vae.errors import PairError
from pyro_vae.programs.batch_plate import check_sites, find_plate
from pyro_vae.programs.particles import BatchPlate


def model(rows=7, full_size=7):
    with pyro.plate("data", full_size, subsample_size=rows, dim=-2), pyro.plate("pixels", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(rows, 3))


def guide(rows=7, full_size=7):
    with pyro.plate("data", full_size, subsample_size=rows, dim=-2), pyro.plate("pixels", 3, dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def traces(**sizes):
    return poutine.trace(model).get_trace(**sizes), poutine.trace(guide).get_trace(**sizes)


def test_the_plate_of_the_datas_length():
    assert find_plate(*traces(), 7, None) == BatchPlate("data", -2, 7, 7)
    assert find_plate(*traces(), 3, None) == BatchPlate("pixels", -1, 3, 3)


def test_a_subsampled_plate_stands_for_the_data():
    assert find_plate(*traces(rows=2), 7, None) == BatchPlate("data", -2, 2, 7)


def test_a_name_decides():
    assert find_plate(*traces(), 7, "pixels").name == "pixels"
    with pytest.raises(PairError, match=r"no plate 'rows' .*data, pixels"):
        find_plate(*traces(), 7, "rows")


def test_a_length_that_no_plate_has():
    with pytest.raises(PairError, match="5 rows among data of 7, pixels"):
        find_plate(*traces(), 5, None)


def test_auxiliary_sites_are_the_guides_own():
    def with_auxiliary():
        with pyro.plate("data", 7, dim=-2), pyro.plate("pixels", 3, dim=-1):
            pyro.sample("v", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(0.0, 1.0))

    found = poutine.trace(with_auxiliary).get_trace()
    check_sites(traces()[0], found)
    found.nodes["v"]["infer"] = {}
    with pytest.raises(PairError, match="only in the guide: v"):
        check_sites(traces()[0], found)
