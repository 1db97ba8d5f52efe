"""The names that our own models and guides give to their plate and their sites.

The engine does not rely on them: it finds the plate and the sites of any pair in its trace.
"""

PLATE = "data"
"""The batch plate, over independent data."""

LATENT = "z"
"""The latent variable."""

OBSERVED = "x"
"""The datum."""

AUXILIARY = "v"
"""A variable of the guide's own, beside the latent one."""

REVERSE = "log_reverse"
"""Minus the log-density of the guide's auxiliary variable given the latent one, a factor in the guide's density."""
