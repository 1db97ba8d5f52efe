"""Read a value of a type from words on a command line."""

import contextlib
import json
import re
from typing import Any, Literal, get_args, get_origin

import yaml

from pyro_vae.cli.wording import is_list, is_union

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf")
"""A number as Python writes it. YAML reads 1e-3, without a point, as text."""

CALL = re.compile(r"[^\s'\"()\[\]{}]+\(.*\)")
"""A part with options in brackets."""


def read_value(text: str, kind: Any) -> Any:
    """Return the value of a type that a text stands for. Lists and mappings are in YAML.

    A whole number for a float stays an int, so that ``NAME(option=value)`` writes it without a point.

    Raises:
        ValueError: the text stands for no value of the type.

    >>> read_value("1e-3", float | str), read_value("[1, 2]", list[int]), read_value("null", str | None)
    (0.001, [1, 2], None)
    >>> read_value("off", str), read_value("off", bool), read_value("3", float)
    ('off', False, 3)
    """
    return _as_type(text, kind)


def _as_type(content: Any, kind: Any) -> Any:
    """Return the value of a type that a text, or a list or mapping of texts, stands for."""
    origin, args = get_origin(kind) or kind, get_args(kind)
    if is_union(kind):
        # Any text is a str: this type comes last.
        for member in sorted(args, key=lambda member: member is str or member is Any):
            with contextlib.suppress(ValueError):
                return _as_type(content, member)
        raise ValueError(content)
    if kind is str and isinstance(content, str):
        return content
    items = _items(content) if isinstance(content, str) else content
    if is_list(kind) and isinstance(items, list):
        kinds = list(args) if origin is tuple and ... not in args else [*args[:1], Any][:1] * len(items)
        return [_as_type(item, item_kind) for item, item_kind in zip(items, kinds, strict=True)]
    if origin is dict and isinstance(items, dict):
        key_kind, item_kind = args or (Any, Any)
        return {_as_type(key, key_kind): _as_type(item, item_kind) for key, item in items.items()}
    if kind is Any and isinstance(items, list | dict):
        return _as_type(items, type(items))
    if isinstance(content, str):
        choices = {str(choice): choice for choice in args}
        value: Any = choices.get(content) if origin is Literal else _scalar(content)
        # float() refuses a whole number that is too large for one.
        is_whole_float = kind is float and type(value) is int and float(value) == value
        if value in args or kind is Any or type(value) is kind or is_whole_float:
            return value
    raise ValueError(content)


def _items(text: str) -> Any:
    """Return the lists and mappings of texts that a text in YAML stands for, or the text."""
    try:
        return yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError:
        return text


def _scalar(text: str) -> Any:
    """Return the number, truth value or null that a text stands for, or the text."""
    with contextlib.suppress(ValueError):
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    with contextlib.suppress(ValueError, yaml.YAMLError):
        value = yaml.safe_load(text) if text else text
        return value if isinstance(value, bool | int | float | None) else text
    return text


def words_as_list(words: list[str]) -> str:
    """Return the YAML of a list that was typed as ``1 2``, ``1,2``, ``[1, 2]`` or ``(1, 2)``.

    A part with options, ``name(option=value, ...)``, is one item, whatever commas it has.

    >>> [words_as_list(words) for words in (["1", "2"], ["1,2"], ["[1, 2]"], ["(1,)"], ["null"])]
    ['[1, 2]', '[1, 2]', '[1, 2]', '[1]', 'null']
    >>> words_as_list(["sbc", "ais(num_test=3, num_chains=2)"])
    '[sbc, "ais(num_test=3, num_chains=2)"]'
    """
    if words == ["null"]:
        return "null"
    if len(words) == 1 and words[0].startswith(("[", "(")):
        words = [words[0][1:-1]]
    items = [item for word in words for item in _at_commas(word)]
    return f"[{', '.join(json.dumps(item) if CALL.fullmatch(item) else item for item in items)}]"


def _at_commas(text: str) -> list[str]:
    """Return what stands between commas, where these are in no brackets and no quotes.

    >>> _at_commas("a, b('(', 2), [3, 4]")
    ['a', "b('(', 2)", '[3, 4]']
    """
    items, depth, quote = [""], 0, ""
    for character in text:
        if character == "," and not depth and not quote:
            items.append("")
            continue
        items[-1] += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([{") - (character in ")]}")
    return [item.strip() for item in items if item.strip()]
