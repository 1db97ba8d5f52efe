"""Lower bounds and gradient estimators, each a ``pyro.infer.ELBO``; ``Trace_ELBO`` is Pyro's own."""

from pyro.infer import Trace_ELBO

from pyro_vae.objectives.analytic_kl import AnalyticKL
from pyro_vae.objectives.beta_elbo import BetaELBO
from pyro_vae.objectives.ciwae import CIWAE
from pyro_vae.objectives.dreg import DReG
from pyro_vae.objectives.free_bits import FreeBits
from pyro_vae.objectives.gdreg import GDReG
from pyro_vae.objectives.iwae import IWAE
from pyro_vae.objectives.miwae import MIWAE
from pyro_vae.objectives.piwae import PIWAE
from pyro_vae.objectives.renyi import RenyiBound
from pyro_vae.objectives.reweighted_wake_sleep import ReweightedWakeSleep
from pyro_vae.objectives.sticking_the_landing import StickingTheLanding

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "PIWAE",
    "AnalyticKL",
    "BetaELBO",
    "DReG",
    "FreeBits",
    "GDReG",
    "RenyiBound",
    "ReweightedWakeSleep",
    "StickingTheLanding",
    "Trace_ELBO",
]
