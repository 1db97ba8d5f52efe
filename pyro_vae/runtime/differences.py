"""By which settings one description differs from another, said setting by setting."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyro_vae.runtime.reading import shown

MOST = 4
"""Settings that a message names."""


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield the settings that were described and are others now.

    One that was not described, as by an earlier version, may be any.

    Args:
        before: settings, mappings of them, and lists.
        now: the same.
        name: of the whole.

    >>> list(differences({"model": {"args": {"latent_dim": 4}}}, {"model": {"args": {"latent_dim": 3}}}))
    ['model.args.latent_dim: was 4, is 3']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key, value in before.items():
            inside = f"{name}.{key}" if name else str(key)
            if key in now:
                yield from differences(value, now[key], inside)
            else:
                yield f"{inside}: was {shown(value)}, is missing"
    elif _are_alike(before, now):
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{name}[{number}]")
    elif before != now:
        yield f"{name}: was {shown(before)}, is {shown(now)}"


def _are_alike(before: Any, now: Any) -> bool:
    """Whether both are lists of as many mappings."""
    both = (before, now)
    if not all(isinstance(one, Sequence) and not isinstance(one, str) for one in both) or len(before) != len(now):
        return False
    return all(isinstance(item, Mapping) for one in both for item in one)


def listed(found: Sequence[str], most: int = MOST) -> str:
    """Return differences in a sentence, the first of them and how many more there are.

    >>> listed(["a: was 1, is 2", "b: was 3, is 4", "c: was 5, is 6"], most=2)
    'a: was 1, is 2; b: was 3, is 4; and 1 more'
    """
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return "; ".join([*found[:most], *more])
