"""Values on a command line, read by the types that parameters have."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from pyro_vae.cli.signature import REQUIRED, Option, options_of


def read(kind, words):
    return Option("x", kind, REQUIRED, "").read(words, "--x")


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        (int, "-3", -3), (int, "1_000", 1000), (int, "0x10", 16), (int, "010", 10),
        (float, "3", 3), (float, "3.0", 3.0), (float, "1e-3", 0.001), (float, ".5", 0.5),
        (float, "-inf", -float("inf")),
        (bool, "true", True), (bool, "off", False), (str, "off", "off"), (str, "null", "null"), (str, "[1", "[1"),
        (int | None, "null", None), (str | None, "null", None), (str | None, "12", "12"), (str | None, "", ""),
        (float | str, "shared", "shared"), (float | str, "0.5", 0.5), (bool | str, "1", "1"),
        (Literal["off", 2], "off", "off"), (Literal["off", 2], "2", 2),
        (tuple[int, ...], ["1", "2"], (1, 2)), (tuple[int, ...], ["[1, 2]"], (1, 2)), (Sequence[int], ["(1,)"], (1,)),
        (tuple[int, ...] | None, ["null"], None), (list[str], ["a", "2"], ("a", "2")), (list, ["1", "a"], (1, "a")),
        (tuple[str, ...], ["a(b=1, c=2)", "d"], ("a(b=1, c=2)", "d")),
        (tuple[str, ...], ["a(b='x, y', c=(2, 3)), d"], ("a(b='x, y', c=(2, 3))", "d")),
        (tuple[str, ...], ["['a(b=1, c=2)', d(e=\"f\", g=1)]"], ("a(b=1, c=2)", 'd(e="f", g=1)')),
        (tuple[str, ...], ["it's", "a(b=1)"], ("it's", "a(b=1)")),
        (tuple[float, float], ["1", "2e1"], (1.0, 20.0)), (list[int], ["[]"], ()),
        (dict[str, int], "{a: 1}", {"a": 1}),
        (Any, "3", 3), (Any, "1e-3", 0.001), (Any, "null", None), (Any, "word", "word"),
        (Any, "[1, [a, 2e1]]", (1, ["a", 20.0])),
        (Any, "2020-01-01", "2020-01-01"), (Any, "{", "{"),
    ],
    ids=str,
)  # fmt: skip
def test_a_text_is_the_value_of_its_type(kind, words, value):
    found = read(kind, words)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "1.5"), (int, "1e3"), (int, "true"), (int, ""), (int, "[1]"), (int, "{"), (float, "nan"), (float, "true"),
        (float, "null"), (float, "1" + "0" * 400), (bool, "1"), (bool, "word"), (int | None, "word"),
        (Literal["off", 2], "on"),
        (Literal["off", 2], "null"), (tuple[int, ...], ["1", "a"]), (tuple[int, ...], ["null"]),
        (tuple[float, float], ["1"]), (tuple[float, float], ["1", "2", "3"]), (tuple[int, ...], ["1", "[2]"]),
        (dict[str, int], "{a: b}"), (dict[str, int], "1"),
    ],
    ids=str,
)  # fmt: skip
def test_a_text_of_another_type_is_refused_in_plain_words(kind, words):
    with pytest.raises(ValueError, match=r"--x must be .*; got '"):
        read(kind, words)


class Parent:
    """A parent.

    Args:
        first: of the parent.
    """

    def __init__(self, first: int = 1):
        """Make one.

        :param first: of its constructor.
        """


class Child(Parent):
    """A child.

    Args:
        second: a `word` in
            two lines.
        third: what only Python has.
    """

    def __init__(self, *args, first, second: "tuple[int, ...]" = (1,), third: type | None = None, fourth=2, **more):
        pass


class Odd:
    def __init__(self, known: int, unknown: "Missing"):  # noqa: F821
        pass


def test_options_have_the_types_defaults_and_words_of_a_class_and_its_parents():
    options = options_of(Child)
    assert [(o.name, o.default, o.help) for o in options.values()] == [
        ("first", REQUIRED, "of its constructor."),
        ("second", (1,), "a word in two lines."),
        ("fourth", 2, ""),
    ]
    assert options["second"].read(["3", "4"]) == (3, 4)
    assert options["first"].read("word") == "word"
    assert options["fourth"].read("5") == 5
    assert "first" not in options_of(Child, skip=("first",))


def test_a_type_that_cannot_be_looked_up_leaves_its_parameter_to_python():
    assert list(options_of(Odd)) == ["known"]
