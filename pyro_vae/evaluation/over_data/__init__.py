"""A pair run over data, a block at a time."""
