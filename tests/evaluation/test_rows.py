"""Cutting arguments by data."""

import pytest
import torch

from pyro_vae.evaluation.rows import Rows


def test_tensors_of_the_datas_length_are_cut_and_others_are_not():
    x, labels, whole, number = torch.arange(6.0).reshape(6, 1), torch.arange(6), torch.ones(2), 7
    rows = Rows("test", (x, labels, whole, number))
    some = rows.take(torch.tensor([5, 0, 0]))
    assert some[0].flatten().tolist() == [5, 0, 0]
    assert some[1].tolist() == [5, 0, 0]
    assert some[2] is whole
    assert some[3] == 7
    assert (rows.size, rows.unit) == (6, "datum")
    assert Rows("test", torch.zeros(2, 1, 4, 4)).unit == "image"


def test_bad_data_are_refused():
    for x in (3.0, torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"sbc: x must be a tensor \(N, \.\.\.\)"):
            Rows("sbc", x)
    with pytest.raises(ValueError, match=r"sbc: x: there are none"):
        Rows("sbc", torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"sbc: x: 1 value is NaN or infinite"):
        Rows("sbc", torch.tensor([[0.0], [torch.nan]]))
