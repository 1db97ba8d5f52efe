"""The four ways, against the law that each promises."""

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.data import BINARIZATIONS, load_data
from pyro_vae.data.binarization import split_generator, to_grey

# Every statistic below is a standard normal z-score, or the largest of a few hundred: with a fixed seed, 5
# is a bound that chance exceeds less than once in a thousand.
K = 5.0


def test_there_are_exactly_the_four_ways():
    assert list(BINARIZATIONS) == ["stochastic", "static", "threshold", "none"]


def test_every_resampled_pixel_has_its_intensity_as_mean():
    data = load_data("mnist-5k")
    torch.manual_seed(0)
    n = 2000
    draws = data.observe(data.train[:1].expand(n, 1, 28, 28))
    p = data.train[0].double() / 255
    uncertain = (p > 0) & (p < 1)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(draws.mean(0)[~uncertain], p[~uncertain].float())
    z = (draws.double().mean(0) - p)[uncertain] / (p * (1 - p) / n)[uncertain].sqrt()
    assert uncertain.sum() > 50
    assert z.abs().max() < K
    # Independent pixels: the squares average to one, with standard deviation sqrt(2 / number).
    assert (z.square().mean() - 1).abs() < K * (2 / len(z)) ** 0.5


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_static_is_one_draw_with_the_intensities_as_means(split):
    grey = getattr(load_data("mnist-5k", binarization="none"), split).double()
    drawn = getattr(load_data("mnist-5k", binarization="static", seed=3), split).double()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    variance = (grey * (1 - grey)).sum()
    assert ((drawn - grey).sum() / variance.sqrt()).abs() < K
    # Independent of a second seed's: pixels differ as often as two independent draws do.
    other = getattr(load_data("mnist-5k", binarization="static", seed=4), split).double()
    differ = 2 * grey * (1 - grey)
    z = ((drawn != other).double().sum() - differ.sum()) / (differ * (1 - differ)).sum().sqrt()
    assert z.abs() < K


def test_held_out_images_are_one_fixed_draw_under_stochastic():
    grey = load_data("mnist-5k", binarization="none")
    first, again, other = (load_data("mnist-5k", seed=seed) for seed in (0, 0, 1))
    for split in ("valid", "test"):
        drawn = getattr(first, split)
        assert drawn.dtype == torch.float32
        assert torch.equal(drawn, getattr(again, split))
        assert not torch.equal(drawn, getattr(other, split))
        p = getattr(grey, split).double()
        assert ((drawn.double() - p).sum() / (p * (1 - p)).sum().sqrt()).abs() < K


def test_validation_and_test_noise_are_independent_of_each_other():
    noise = [torch.rand(1000, generator=split_generator(0, split)) for split in ("train", "valid", "test")]
    correlations = torch.corrcoef(torch.stack(noise))[(0, 0, 1), (1, 2, 2)]
    assert correlations.abs().max() < K / 1000**0.5


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([0, 127, 128, 255], dtype=np.uint8), [0.0, 0.0, 1.0, 1.0]),
        (np.array([0.0, 0.5, 0.5001, 1.0]), [0.0, 0.0, 1.0, 1.0]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*are training data as well")  # all alike
def test_threshold_is_one_above_a_half(pixels, expected, tmp_path):
    np.save(tmp_path / "x.npy", np.tile(pixels, (10, 1)))
    data = load_data(tmp_path / "x.npy", binarization="threshold")
    for split in (data.train, data.valid, data.test, data.observe(data.train)):
        assert split.dtype == torch.float32
        assert (split == torch.tensor(expected)).all()


def test_none_divides_bytes_by_255_and_leaves_floats():
    assert torch.equal(
        to_grey(torch.tensor([0, 1, 128, 255], dtype=torch.uint8)),
        torch.tensor([0.0, 1 / 255, 128 / 255, 1.0]),
    )
    floats = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(to_grey(floats), floats)


@pytest.mark.parametrize("binarization", list(BINARIZATIONS))
def test_training_rows_have_the_promised_dtype_and_observe_gives_float32(binarization):
    data = load_data("mnist-5k", binarization=binarization)
    assert data.train.dtype == (torch.uint8 if binarization == "stochastic" else torch.float32)
    seen = data.observe(data.train[:3])
    assert (seen.shape, seen.dtype) == ((3, 1, 28, 28), torch.float32)
    assert torch.equal(seen, data.observe(data.train[:3])) == (binarization != "stochastic")


@pytest.mark.parametrize("binarization", list(BINARIZATIONS))
def test_observe_can_be_traced_into_a_graph_that_draws_afresh(binarization):
    data = load_data("mnist-5k", binarization=binarization)
    rows, others = data.train[:4], data.train[4:8]
    graph = make_fx(lambda rows: data.observe(rows))(rows)
    for batch in (rows, others):
        torch.manual_seed(7)
        traced = graph(batch)
        torch.manual_seed(7)
        assert torch.equal(traced, data.observe(batch))
    assert torch.equal(graph(rows), graph(rows)) == (binarization != "stochastic")


@pytest.mark.parametrize("binarization", list(BINARIZATIONS))
def test_loading_neither_reads_nor_advances_the_global_generator(binarization):
    torch.manual_seed(1)
    first = load_data("mnist-5k", binarization=binarization)
    state = torch.get_rng_state()
    second = load_data("mnist-5k", binarization=binarization)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    third = load_data("mnist-5k", binarization=binarization)
    for data in (second, third):
        for split in ("train", "valid", "test"):
            assert torch.equal(getattr(first, split), getattr(data, split))


def test_a_read_draws_what_torch_bernoulli_draws():
    rows = torch.arange(256, dtype=torch.uint8).repeat(50).reshape(100, 128)
    torch.manual_seed(3)
    seen = BINARIZATIONS["stochastic"].observe(rows)
    torch.manual_seed(3)
    assert torch.equal(seen, torch.bernoulli(rows / 255))
    assert (seen[rows == 255] == 1).all()
    assert (seen[rows == 0] == 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT CHECKED: no CUDA device")
def test_observe_draws_on_the_rows_device():
    data = load_data("mnist-5k")
    seen = data.observe(data.train[:2].cuda())
    assert seen.device.type == "cuda"
    assert set(seen.unique().tolist()) == {0.0, 1.0}
