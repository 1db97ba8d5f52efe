from importlib.util import find_spec

import pytest
import torch

from benchmarks import training
from benchmarks.batches import NumberedBatches
from benchmarks.raw_vae import RawVAE
from benchmarks.training import X_DIM

pytestmark = pytest.mark.skipif(
    find_spec("pythae") is None,
    reason="pythae is not installed: pip install -r benchmarks/requirements-opponents.txt",
)

HIDDEN_DIMS = (7, 5)


def test_the_loss_is_that_of_the_hand_written_model_under_the_same_noise():
    from benchmarks.opponents.pythae_vae import pythae_vae

    raw = RawVAE(6, 3, HIDDEN_DIMS)
    x = torch.randint(0, 2, (4, 6)).float()
    other = pythae_vae(raw, 6, 3)
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in raw.parameters())
    torch.manual_seed(0)
    expected = raw.loss(x)
    torch.manual_seed(0)
    torch.testing.assert_close(4 * other({"data": x}).loss, expected)


def test_the_trainer_takes_the_hand_written_sides_steps_on_the_same_batches():
    from benchmarks.opponents import pythae_vae

    batches = NumberedBatches(torch.randint(0, 2, (40, X_DIM)).float(), 4)
    losses = []
    for make in (training.raw, pythae_vae.same_batches):
        torch.manual_seed(0)
        side = make(batches, HIDDEN_DIMS)
        torch.manual_seed(1)
        losses.append([side(0), side(1)])
    # The trainer's loss is a datum's, averaged over the batches; Adam's steps do not see the scale, but for its 1e-8.
    expected = [total / 40 for total in losses[0]]
    torch.testing.assert_close(losses[1], expected, rtol=1e-5, atol=0)


def test_its_own_loader_hands_over_every_datum_once_in_batches_of_the_same_size():
    from benchmarks.opponents import pythae_vae

    pixels = torch.zeros(40, X_DIM)
    pixels[range(40), range(40)] = 1
    trainer = pythae_vae.trainer(NumberedBatches(pixels, 4), HIDDEN_DIMS)
    seen = [batch["data"] for batch in trainer.train_loader]
    assert {len(x) for x in seen} == {4}
    assert torch.cat(seen).argmax(1).sort().values.tolist() == list(range(40))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train_step(1)
    assert all((p != q).any() for p, q in zip(trainer.model.parameters(), before, strict=True))
