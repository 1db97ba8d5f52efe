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


def layer_site(level: int) -> str:
    """Return the name of one of several latent layers, counted from 1, the one nearest to the datum.

    >>> layer_site(2)
    'z2'
    """
    return f"{LATENT}{level}"
