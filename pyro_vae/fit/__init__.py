"""Fitting a pair: the loop, the traced step, checkpoints and run folders."""

from pyro_vae.fit.loop import fit
from pyro_vae.fit.options import BATCH_SIZE, EPOCHS, LEARNING_RATE
from pyro_vae.fit.run import Run, load_run
from pyro_vae.fit.schedules import SCHEDULES, iwae_schedule

__all__ = ["BATCH_SIZE", "EPOCHS", "LEARNING_RATE", "SCHEDULES", "Run", "fit", "iwae_schedule", "load_run"]
