"""Comparing guides, priors, likelihoods and objectives: grids of cells, paired statistics, tables and reports."""

from pyro_vae.comparison.cell import Cell
from pyro_vae.comparison.compare import compare
from pyro_vae.comparison.comparison import Comparison
from pyro_vae.comparison.estimates import Configuration
from pyro_vae.comparison.grid import Grid
from pyro_vae.comparison.load_run import load_run
from pyro_vae.comparison.results import CellResult
from pyro_vae.comparison.run_cell import load_cell

__all__ = ["Cell", "CellResult", "Comparison", "Configuration", "Grid", "compare", "load_cell", "load_run"]
