"""A Pyro program captured as a graph of tensor operations, simplified and compiled."""
