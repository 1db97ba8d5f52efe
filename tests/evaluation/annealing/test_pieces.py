"""Every chain of every datum is taken once, no piece is too large, and a file gives back what was put."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_vae.errors import CheckpointError, RunError
from pyro_vae.evaluation.annealing.pieces import Record, fingerprint, pieces_of


@pytest.mark.parametrize("num_chains", [1, 7, 16, 100])
@pytest.mark.parametrize("num_data", [1, 10, 33])
@pytest.mark.parametrize("max_rows", [1, 6, 40, 10_000])
def test_every_chain_of_every_datum_is_taken_once(num_chains, num_data, max_rows):
    pieces = pieces_of(num_chains, num_data, max_rows)
    chains, width = pieces[0].shape
    assert chains * width <= max_rows
    seen = torch.zeros(num_chains, num_data)
    data = torch.arange(num_data)
    for index, piece in enumerate(pieces):
        assert piece.index == index
        assert piece.shape == (chains, width)
        assert 0 <= piece.first <= num_data - width
        block = data[piece.first : piece.first + width].expand(chains, -1)
        seen[piece.chains, piece.data] += 1
        assert (piece.taken(block) == data[piece.data]).all()
        assert piece.taken(block).shape == seen[piece.chains, piece.data].shape
    assert (seen == 1).all()
    assert index == len(pieces) - 1


def record(path=None, settings=None, seed=3):
    pieces = pieces_of(4, 5, 6)
    return pieces, Record("ais", path, settings or {"a": 1, "b": [0.1, 2]}, seed, ("w", "v"), (4, 5), len(pieces))


def test_a_file_gives_back_what_was_put(tmp_path):
    file = tmp_path / "new" / "ais.safetensors"
    pieces, first = record(file)
    first.level = "trace"
    numbers = {"w": torch.randn(4, 1).double(), "v": torch.randn(4, 1)}
    first.put(pieces[1], numbers)
    _, second = record(file, seed=None)
    assert (second.seed, second.level) == (3, "trace")
    assert second.done.tolist() == [False, True] + [False] * (len(pieces) - 2)
    assert_close(second.values["w"][pieces[1].chains, pieces[1].data], numbers["w"], rtol=0, atol=0)
    assert_close(second.values["v"], first.values["v"], rtol=0, atol=0)
    assert second.piece_seed(2) == first.piece_seed(2)


def test_every_piece_has_a_seed_and_neighbouring_seeds_share_none():
    found = [record(seed=seed)[1].piece_seed(index) for seed in range(20) for index in range(-1, 50)]
    # What torch's generator on the CPU uses of a seed.
    assert len({seed % 2**32 for seed in found}) == len(found)
    torch.manual_seed(0)
    one, other = record(seed=None)[1].seed, record(seed=None)[1].seed
    assert one != other
    torch.manual_seed(0)
    assert record(seed=None)[1].seed == one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"a": 2, "b": [0.1, 2]}}, r"a: was 1, is 2\."),
        ({"settings": {"a": 1, "c": 0}}, r"c: was None, is 0\."),
        ({"seed": 4}, r"seed: was 3, is 4\."),
    ],
)
def test_a_file_of_other_settings_is_refused(tmp_path, options, message):
    file = tmp_path / "ais"
    pieces, first = record(file)
    first.put(pieces[0], {"w": torch.zeros(4, 1), "v": torch.zeros(4, 1)})
    content = file.read_bytes()
    with pytest.raises(RunError, match=f"^ais: {file} .*; {message}"):
        record(file, **options)
    file.write_bytes(content[:-8] + b"\1" * 8)
    with pytest.raises(RunError, match="damaged"):
        record(file)


def test_a_file_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"^ais: cannot make the folder"):
        record(tmp_path / "file" / "below" / "ais")
    pieces, first = record(tmp_path / "gone" / "ais")
    (tmp_path / "gone").rmdir()
    with pytest.raises(CheckpointError, match=r"\(No such file .*call ais again"):
        first.put(pieces[0], {"w": torch.zeros(4, 1), "v": torch.zeros(4, 1)})


def test_a_fingerprint_sees_data_parameters_and_buffers():
    def made(fill=0.0, mean=0.0, x=1.0, flag=True):
        layer, norm = nn.Linear(2, 3), nn.BatchNorm1d(3)
        with torch.no_grad():
            for value in layer.parameters():
                value.fill_(fill)
            norm.running_mean.fill_(mean)
        return fingerprint((torch.full((4, 2), x), flag, made), [layer, norm])

    assert made() == made()
    assert made(fill=1.0)["parameters"] != made()["parameters"] != made(mean=1.0)["parameters"]
    assert made(fill=1.0)["data"] == made()["data"]
    assert made(x=2.0)["data"] != made()["data"] != made(flag=False)["data"]
