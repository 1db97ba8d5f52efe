"""Name the settings by which two descriptions differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.runtime.reading import shown

MOST = 4
"""Largest number of settings that a message names."""


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield each setting whose value has changed.

    A setting that ``before`` lacks is not compared: an earlier version may not have written it.

    Args:
        before: settings, and mappings and lists of settings.
        now: the same.
        name: prefix of the names of settings.

    >>> list(differences({"model": {"args": {"latent_dim": 4}}}, {"model": {"args": {"latent_dim": 3}}}))
    ['model.args.latent_dim: was 4, is 3']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key, value in before.items():
            full_name = f"{name}.{key}" if name else str(key)
            if key in now:
                yield from differences(value, now[key], full_name)
            else:
                yield f"{full_name}: was {shown(value)}, is missing"
    elif _are_mappings(before) and _are_mappings(now) and len(before) == len(now):
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{name}[{number}]")
    elif before != now:
        yield f"{name}: was {shown(before)}, is {shown(now)}"


def _are_mappings(value: Any) -> bool:
    """Whether a value is a list of mappings."""
    return isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value)


def listed(settings: Sequence[str], most: int = MOST) -> str:
    """Return the first differences in one sentence, and how many more there are.

    >>> listed(["a: was 1, is 2", "b: was 3, is 4", "c: was 5, is 6"], most=2)
    'a: was 1, is 2; b: was 3, is 4; and 1 more'
    """
    more = f"; and {len(settings) - most} more" if len(settings) > most else ""
    return "; ".join(settings[:most]) + more
