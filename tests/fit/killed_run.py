"""What the processes run that `test_kill.py` kills."""

import resource
from functools import partial
from pathlib import Path

import torch
from torch import nn

from pyro_vae import fit
from pyro_vae.data import ImageData
from pyro_vae.errors import CheckpointError
from pyro_vae.fit import Run
from pyro_vae.guides import MeanFieldGuide
from pyro_vae.models import VAE

EPOCHS = 14
SIDE, LATENT_DIM, HIDDEN = 20, 4, 800


def grey_images() -> ImageData:
    """Sixty blurred stripes of bytes, binarized afresh in each step."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.3 * torch.rand(80, 1, 1, 1, generator=generator)
    wave = 127 + 100 * torch.sin(phase + torch.arange(SIDE) * 0.7).expand(80, 1, SIDE, SIDE)
    held_out = torch.bernoulli(wave[60:] / 255, generator=generator)
    return ImageData(
        name="stripes",
        train=wave[:60].to(torch.uint8),
        valid=held_out[:10],
        test=held_out[10:],
        binarization="stochastic",
        seed=0,
        content_hash="stripes",
        source="made here",
    )


def train(out: str | Path, compile: str, epochs: int = EPOCHS) -> Run:
    """Adam moments, a scheduler with a Counter in its state, dropout, stochastic binarization, early stopping.

    The state is some 10 MB (parameters, best parameters, two moments each), so that writing it takes a while.
    """
    torch.set_num_threads(1)  # a machine that is busy elsewhere stalls two threads at every barrier
    torch.manual_seed(0)
    model = VAE((1, SIDE, SIDE), LATENT_DIM, (HIDDEN,))
    encoder = nn.Sequential(
        nn.Linear(SIDE * SIDE, HIDDEN), nn.Tanh(), nn.Dropout(0.2), nn.Linear(HIDDEN, 2 * LATENT_DIM)
    )
    return fit(
        model,
        MeanFieldGuide((1, SIDE, SIDE), LATENT_DIM, encoder=encoder),
        grey_images(),
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        scheduler=partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[4, 9, 9], gamma=2.0),
        epochs=epochs,
        batch_size=20,
        kl_warmup=3,
        patience=50,
        clip_grad_norm=1e4,
        seed=1,
        compile=compile,
        out=out,
        resume=True,
    )


def train_on_a_full_disk(out: str, limit: int, message: str) -> None:
    """Train with no file allowed to grow beyond `limit` bytes: the kernel fails the write, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # Python ignores SIGXFSZ: write fails with EFBIG
    try:
        train(out, "off")
    except CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        Path(message).write_text(str(error))
