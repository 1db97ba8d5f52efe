"""Write docstrings and types in plain words, for help and errors."""

import inspect
import re
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def plain(text: str) -> str:
    r"""Return a docstring's text without markup, on one line.

    >>> plain(":math:`\\sum_k \\pi_k(x) N(loc_k(x), \\mathrm{diag}(s))` of ``K``, as :class:`IWAE`")
    'sum_k pi_k(x) N(loc_k(x), diag(s)) of K, as IWAE'
    """
    text = re.sub(r"(?::\w+)?:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"``([^`]*)``|`([^`]*)`", r"\1\2", text)
    text = re.sub(r"\\frac\{?(\w+)\}?\{?(\w+)\}?", r"\1/\2", text)
    text = re.sub(r"\\(?:mathrm|mathcal|tilde|hat)\{(\w+)\}", r"\1", text)
    text = re.sub(r"\\([A-Za-z]+)", r"\1", text).replace("\\", "")
    return " ".join(text.split())


def summary(thing: Any) -> str:
    """Return the first sentence of a docstring in plain words; "" if only a class's parents have a docstring.

    >>> from pyro_vae.models.priors import StandardNormalPrior
    >>> summary(StandardNormalPrior)
    'p(z) = N(0, I).'
    """
    first = plain(_docstring(thing).partition("\n\n")[0])
    # "e.g." and "1.0" end no sentence: the next one starts with a capital letter.
    return re.split(r"(?<=[^.A-Z][.]) (?=[A-Z])", first, maxsplit=1)[0]


def citation(thing: Any) -> str:
    """Return the first reference of a class's or function's docstring as authors and year; "" if it has none.

    >>> from pyro_vae.guides import MeanFieldGuide, SylvesterGuide
    >>> citation(MeanFieldGuide), citation(SylvesterGuide)
    ('Kingma & Welling 2014', 'van den Berg et al. 2018')
    """
    references = _docstring(thing).partition("References:")[2]
    reference = re.match(r"([^(*;]*?)\s*\((\d{4})\)", " ".join(references.split()))
    if reference is None:
        return ""
    names = [re.sub(r"^(?:[A-Z]\.[- ]?)+", "", name) for name in reference[1].split(", ")]
    if len(names) > 2:
        names = [f"{names[0]} et al."]
    return f"{' & '.join(names)} {reference[2]}"


def _docstring(thing: Any) -> str:
    """Return the docstring of a class, not that of its parents, or of a function."""
    docstring = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return inspect.cleandoc(docstring or "")


def in_words(kind: Any) -> str:
    """Return the name of a type in words.

    >>> in_words(int | None), in_words(tuple[int, ...]), in_words(float | str)
    ('a whole number or null', 'a list of whole numbers', 'a number or text')
    """
    origin, args = get_origin(kind), get_args(kind)
    if is_union(kind):
        return " or ".join(in_words(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if is_list(kind):
        words = in_words(args[0]).removeprefix("a ") if args else "value"
        return "a list of texts" if words == "text" else f"a list of {words}s"
    return SCALARS.get(kind, f"of type {getattr(kind, '__name__', kind)}")


def is_union(kind: Any) -> bool:
    """Whether a type is a union, as ``int | None``."""
    return get_origin(kind) in (Union, UnionType)


def is_list(kind: Any) -> bool:
    """Whether a type is that of a list, or the union of such a type with None."""
    if is_union(kind):
        return all(is_list(arg) for arg in get_args(kind) if arg is not NoneType)
    container = get_origin(kind) or kind
    if not inspect.isclass(container) or issubclass(container, str | bytes | dict):
        return False
    return issubclass(container, Iterable)


def in_text(value: Any) -> str:
    """Return a value as it is typed on a command line.

    >>> in_text((200, 200)), in_text(True), in_text(None), in_text(1e-8)
    ('200 200', 'true', 'null', '1e-08')
    """
    if isinstance(value, list | tuple):
        return " ".join(map(in_text, value))
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
