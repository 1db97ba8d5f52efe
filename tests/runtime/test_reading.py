"""YAML and JSON that somebody else wrote: what is read, what is refused, and by which line."""

import pytest

from pyro_vae.errors import RunError
from pyro_vae.runtime.reading import read_json, read_yaml, read_yaml_with_lines

MERGES = "a: &a {k: 1, l: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 30)}]}}\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
"""Each mapping merges the one before it thirty times: 30^7 pairs, if they were merged before they are counted."""

CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


@pytest.fixture
def written(tmp_path):
    """Write a file and return its path."""

    def write(text):
        file = tmp_path / "file"
        file.write_text(text)
        return file

    return write


def test_a_merge_an_alias_and_a_date_are_read_as_they_are_written(written):
    file = written("common: &c {x: 1}\nsame: *c\nmore:\n  <<: *c\n  on: 2020-01-02\n  time: 12:30:45\n")
    content, lines = read_yaml_with_lines(file)
    assert content == {"common": {"x": 1}, "same": {"x": 1}, "more": {"x": 1, True: "2020-01-02", "time": 45045}}
    assert lines[("more", "time")] == 6
    assert lines[("common", "x")] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MERGES, "line 5: more than 2,000,000"),
        ("a: &a {<<: *a}\n", "line 1: more than 2,000,000"),
        ("a: 1\nb: &b [*b]\n", "line 2: more than 2,000,000"),
        (CHAIN, "more than 40 levels"),
        ("[" * 60 + "]" * 60, "more than 40 levels"),
        ("x: 1\na: " + ":".join(["1"] * 10_000), "line 2: 1:1:1.* whole number"),
        ("a: " + ":".join(["1"] * 10_000) + ".5", "too large to convert to float"),
        ("a: 18446744073709551616", "09551616... is no whole number"),
        ("a: !!binary aGVsbG8=\n", "a value of class bytes"),
        ("a: !!set {b, c}\n", "a value of class set"),
        ('a: ["\\e[31m"]', r"the character '\\x1b'"),
        ('"\\ud800": 1', r"the character '\\ud800'"),
        ("a: 1\n? [1, 2]\n: 3\n", "line 2: a key must be a text"),
        ("a: 1\nb: {c: 1, d: 2, c: 3}\n", "line 2: 'c' stands here twice"),
    ],
)
def test_what_no_file_of_the_package_holds_is_refused(text, message, written):
    with pytest.raises(RunError, match=message):
        read_yaml(written(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 41 + "]" * 41, "more than 40 levels"),
        ("[" * 100_000, "more than 40 levels"),
        ("[" + "9" * 5000 + "]", r"99999999\.\.\. is no whole number"),
        ('{"a": {"b": 1, "b": 2}}', "'b' stands in one place twice"),
        ('["\\u001b[31m"]', r"the character '\\x1b'"),
        ('{"\\ud800": 1}', r"the character '\\ud800'"),
    ],
)
def test_json_is_held_to_the_same(text, message, written):
    with pytest.raises(RunError, match=message):
        read_json(written(text))


def test_what_is_just_within_the_bounds_is_read(written):
    most = 2**64 - 1
    assert read_json(written(f"[{most}, -{most}, {'[' * 38}1.5{']' * 38}]"))[:2] == [most, -most]
    assert read_yaml(written(f"[{most}, -{most}]")) == [most, -most]
