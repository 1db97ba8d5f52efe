"""Programs that refuse one layout of samples or another, and the layout that is left for them."""

from pyro_vae.programs.layouts import OneByOne, OuterPlate, RepeatedRows

LAYOUTS = [OuterPlate, RepeatedRows, OneByOne]


def leave(layout, value, ndim, rows):
    """Refuse, as networks do, a site's value that lies in any layout of several samples but this one.

    Args:
        layout: one of ``LAYOUTS``.
        value: of a site.
        ndim: of the value when it is run alone.
        rows: data that the program knows of.
    """
    if layout is not OuterPlate and value.ndim > ndim:
        raise ValueError("no leading dims here")
    if layout is OneByOne and len(value) > rows:
        raise ValueError("no more rows than data here")
