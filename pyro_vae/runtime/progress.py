"""Progress bars."""

from typing import Any

from tqdm import tqdm


def progress_bar(
    total: int | None, unit: str, who: str = "", *, shown: bool | None, initial: int = 0, **options: Any
) -> "tqdm[Any]":
    """Return a progress bar as wide as the terminal.

    Args:
        total: number of units at its end; None if it is not known.
        unit: name of the unit, with a space before it.
        who: the text at its left.
        shown: whether it is shown; None shows it on a terminal only.
        initial: number of units that are done.
        options: of :class:`tqdm.tqdm`.
    """
    return tqdm(
        total=total, initial=initial, unit=unit, desc=who or None, disable=None if shown is None else not shown,
        dynamic_ncols=True, **options,
    )  # fmt: skip
