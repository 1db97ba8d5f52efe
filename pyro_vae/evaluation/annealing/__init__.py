"""Annealed importance sampling and bidirectional Monte Carlo."""
