"""A Pyro program and a pair of them, read and run: sites, batch plate, particles, joint density, log-weights."""
