"""The opponent: Pythae's VAE in Pythae's trainer.

What is timed is ``BaseTrainer.train_step``, the trainer's loop over one epoch (its name for it): batches from its
loader, the model's forward with all that it returns, ``zero_grad``, ``backward``, ``Adam(fused=True)``, ``loss.item()``
and the callbacks' events. Not timed: its start, and what it does after an epoch (it copies the best model, logs and
saves). Its progress bar is taken out.
"""

import logging
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

from benchmarks.batches import NumberedBatches
from benchmarks.raw_vae import RawVAE
from benchmarks.timing import Side
from benchmarks.training import LATENT_DIM, LEARNING_RATE, X_DIM


class Encoder(BaseEncoder):
    """From pixels to the location and log variance of q(z | x)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        """Return location and log variance, each ``(batch, latent_dim)``."""
        loc, log_variance = self.network(x).chunk(2, dim=-1)
        return ModelOutput(embedding=loc, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """From z to the probability of each pixel, which is what Pythae's cross-entropy takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        """Return probabilities ``(batch, x_dim)``."""
        return ModelOutput(reconstruction=self.network(z).sigmoid())


class SameBatches:
    """Stands in for the trainer's loader: the batches of the other sides.

    Args:
        batches: of the other sides.
        dataset: which the trainer asks for its length.
    """

    def __init__(self, batches: NumberedBatches, dataset: BaseDataset) -> None:
        self.batches, self.dataset, self.index = batches, dataset, 0

    def __len__(self) -> int:
        return len(self.dataset) // self.batches.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return ({"data": x} for x in self.batches.images(self.index))


def pythae_vae(vae: RawVAE, x_dim: int, latent_dim: int) -> VAE:
    """Return Pythae's VAE around the networks of a hand-written one."""
    config = VAEConfig(input_dim=(x_dim,), latent_dim=latent_dim, reconstruction_loss="bce")
    return VAE(config, Encoder(vae.encoder), Decoder(vae.decoder))


def own_loader(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return the trainer as its users run it: it collates its batches one datum after the other."""
    as_it_is = trainer(batches, hidden_dims)
    return lambda index: as_it_is.train_step(index + 1)


def same_batches(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> Side:
    """Return the trainer with the other sides' batches in its loader's place: its loop and its model alone."""
    fed = trainer(batches, hidden_dims)
    fed.train_loader = loader = SameBatches(batches, fed.train_dataset)

    def epoch(index: int) -> float:
        loader.index = index
        return float(fed.train_step(index + 1))

    return epoch


def trainer(batches: NumberedBatches, hidden_dims: tuple[int, ...]) -> BaseTrainer:
    """Return Pythae's trainer, ready for ``train_step``, with the hand-written side's networks and optimizer."""
    logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.WARNING)
    model = pythae_vae(RawVAE(X_DIM, LATENT_DIM, hidden_dims), X_DIM, LATENT_DIM)
    dataset = BaseDataset(batches.pixels, torch.zeros(len(batches.pixels)))
    with TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=batches.batch_size,
            optimizer_cls="Adam",
            optimizer_params={"fused": True},
            learning_rate=LEARNING_RATE,
            no_cuda=True,
        )
        prepared = BaseTrainer(model, dataset, training_config=config)
        prepared.prepare_training()
    prepared.callback_handler.callbacks = []
    return prepared
