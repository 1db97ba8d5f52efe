import json

import pytest
import torch
from torch.testing import assert_close

from benchmarks import conv_step
from benchmarks.raw_conv_vae import RawConvVAE
from pyro_vae.parts import make_pair


def test_the_networks_by_hand_are_the_librarys():
    """With the same weights; the output bias, by hand one number and here one a pixel, is 0 at the start."""
    model, guide = make_pair((1, 8, 8), 3, (), network="conv(channels=(4, 6), linear_dims=(5,))")
    encoder, decoder = guide.encoder, model.likelihood.decoder
    raw = RawConvVAE((1, 8, 8), 3, (4, 6), 5)
    torch.nn.init.zeros_(raw.decoder[-1].bias)
    ours = [*encoder.convolutions.parameters(), *encoder.linear.parameters()]
    ours += [*decoder.linear.parameters(), *decoder.convolutions.parameters()]
    by_hand = [parameter for parameter in raw.parameters() if parameter is not raw.decoder[-1].bias]
    for mine, other in zip(ours, by_hand, strict=True):
        other.data.copy_(mine)
    x, z = torch.rand(4, 1, 8, 8), torch.randn(4, 3)
    assert_close(raw.encoder(x), encoder(x.flatten(1)))
    assert_close(raw.decoder(z).flatten(1), decoder(z))


@pytest.mark.slow
def test_it_prints_the_ratio_of_each_level(capsys):
    small = ["--batch", "2", "--num-data", "4", "--rounds", "1", "--seconds", "0.001", "--levels", "trace", "off"]
    conv_step.main(["--json", "--cpu-time", *small])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"raw_ms", "trace", "off"}
    assert all(value > 0 for value in found.values())
    conv_step.main(small)
    assert capsys.readouterr().out.startswith("batch 2, conv(channels=(32, 64), linear_dims=(256,)): raw")
