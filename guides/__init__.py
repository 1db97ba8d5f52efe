"""Amortized guides q(z | x), each a Pyro program."""

if __name__ != "pyro_vae.guides":
    raise ImportError(
        f"imported as {__name__!r}: import pyro_vae.guides instead, since otherwise every class exists twice."
    )

from pyro_vae.guides.auxiliary import AuxiliaryGuide
from pyro_vae.guides.bottom_up import BottomUpGuide
from pyro_vae.guides.conditional import ConditionalGuide
from pyro_vae.guides.full_rank import FullRankGuide
from pyro_vae.guides.householder import HouseholderGuide
from pyro_vae.guides.iaf import InverseAutoregressiveGuide
from pyro_vae.guides.local import LocalGuide
from pyro_vae.guides.low_rank import LowRankGuide
from pyro_vae.guides.mean_field import MeanFieldGuide
from pyro_vae.guides.mixture import MixtureGuide
from pyro_vae.guides.planar import PlanarGuide
from pyro_vae.guides.semi_amortized import SemiAmortizedGuide
from pyro_vae.guides.spline import SplineGuide
from pyro_vae.guides.sylvester import SylvesterGuide
from pyro_vae.guides.top_down import TopDownGuide

__all__ = [
    "AuxiliaryGuide",
    "BottomUpGuide",
    "ConditionalGuide",
    "FullRankGuide",
    "HouseholderGuide",
    "InverseAutoregressiveGuide",
    "LocalGuide",
    "LowRankGuide",
    "MeanFieldGuide",
    "MixtureGuide",
    "PlanarGuide",
    "SemiAmortizedGuide",
    "SplineGuide",
    "SylvesterGuide",
    "TopDownGuide",
]
