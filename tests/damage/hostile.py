"""Random damage to texts, words, bytes and folders, from a seed."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

VALUES = (
    "", " ", "null", "true", "[]", "{}", "-1", "0", "1e3", "1e400", "nan", ".inf", "-.inf", "9" * 40, "0x1F",
    "2001-01-01", "é", "\u2028", "'", '"', "#", "&a [*a]", "*a", "!!python/object:os.system", "<<", "os:system",
    "../../x", "a:b",
    "x.py:X", "iaf(", "iaf(num_flows=0)", "iaf(num_flows=999999999)", "low_rank(rank=-1)", "--", "-", "--guide",
    "=", "%s", "{0}", "\t", "1 2 3", "[1, [2, [3]]]", "none", "mean_field", "cuda:9", "meta", "inductor",
)  # fmt: skip
"""What may stand where something else is expected."""


def how_many(dice: random.Random) -> int:
    """Return how many places to change. Most damages stand alone: after several, little is left that could be taken."""
    return dice.choices([1, 2, 3], weights=[6, 2, 1])[0]


def damaged_text(text: str, dice: random.Random) -> str:
    """Return a text with some places changed."""
    for _ in range(how_many(dice)):
        start = dice.randrange(len(text) + 1)
        stop = min(len(text), start + dice.randint(0, 12))
        lines = text.split("\n")
        line = dice.randrange(len(lines))
        key, colon, _ = lines[line].partition(":")
        changes = [
            text[:start] + text[stop:],
            text[:start] + text[start:stop] * 2 + text[stop:],
            text[:start] + dice.choice(VALUES) + text[stop:],
            "\n".join([*lines[:line], *lines[line + 1 :]]),
            "\n".join([*lines[:line], "  " + lines[line], *lines[line + 1 :]]),
            "\n".join([*lines[:line], f"{key}{colon or ':'} {dice.choice(VALUES)}", *lines[line + 1 :]]),
            text[:start],
        ]
        text = dice.choice(changes)
    return text


def damaged_words(words: Sequence[str], dice: random.Random) -> list[str]:
    """Return the words of a command with some of them changed."""
    found = list(words)
    for _ in range(how_many(dice)):
        place = dice.randrange(len(found) + 1)
        rest = found[place + 1 :]
        word = found[place] if place < len(found) else ""
        # A number for a number, and a word of the same command, are the likeliest to be taken.
        likely = [str(dice.randint(-1, 9)), str(dice.randint(0, 9)), dice.choice(words)]
        changes = [
            rest,
            [dice.choice(VALUES), word, *rest],
            [dice.choice(VALUES), *rest],
            [dice.choice(likely), *rest],
            [dice.choice(likely), *rest],
            [word, word, *rest],
            [damaged_text(word, dice), *rest],
        ]
        found[place:] = dice.choice(changes)
    return found


def damaged_bytes(content: bytes, dice: random.Random) -> bytes:
    """Return bytes with some places changed."""
    for _ in range(how_many(dice)):
        # The first bytes say what follows.
        start = dice.randrange(dice.choice([len(content), min(len(content), 200)]) + 1)
        stop = min(len(content), start + dice.randint(1, 16))
        changes = [
            content[:start] + dice.randbytes(stop - start) + content[stop:],
            content[:start] + content[stop:],
            content[:start],
            content[:start] + content[start:stop] * 3 + content[stop:],
            content[:start] + b"9" * (stop - start) + content[stop:],
            b"",
        ]
        content = dice.choices(changes, weights=[4, 2, 2, 2, 2, 0.2])[0]
    return content


def damage_folder(folder: Path, dice: random.Random) -> None:
    """Change some files or folders below a folder."""
    for _ in range(how_many(dice)):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        folders = sorted(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
        if not files:
            return
        file = dice.choice(files)
        elsewhere = dice.choice([folder, *folders]) / dice.choice([file.name, "x.txt", ".hidden", "Train", "é.png"])
        changes: list[Callable[[], object]] = [
            lambda file=file: file.write_bytes(damaged_bytes(file.read_bytes(), dice)),
            lambda file=file: file.write_bytes(damaged_bytes(file.read_bytes(), dice)),
            lambda file=file: file.write_text(damaged_text(file.read_bytes().decode("latin-1"), dice), "utf-8"),
            lambda file=file: file.unlink(),
            lambda file=file, to=elsewhere: to.exists() or file.replace(to),
            lambda file=file, to=elsewhere: to.exists() or to.write_bytes(file.read_bytes()),
            lambda to=elsewhere: to.exists() or to.mkdir(),
            lambda to=elsewhere: os.path.lexists(to) or to.symlink_to(folder, target_is_directory=True),
            lambda file=file: (file.unlink(), file.mkdir()),
        ]
        dice.choice(changes)()
