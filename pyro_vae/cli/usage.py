"""Parse the words of one command: flags with - or _, and errors in one line."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pyro_vae.cli import SWITCHES
from pyro_vae.cli.output import HelpWanted
from pyro_vae.runtime.checks import check_path
from pyro_vae.runtime.wording import did_you_mean

NEGATIVE = re.compile(r"-(\d|\.\d|\.?inf$)")
"""A negative number, which starts like a flag."""

COLUMNS = 100
"""Width of a help text."""


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the help of a command is asked for."""
    return "-h" in argv or "--help" in argv


def a_path(text: str) -> Path:
    """Return the path that a word stands for.

    Raises:
        argparse.ArgumentTypeError: no file can have that path.
    """
    try:
        check_path("", "it", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(": it ")) from error
    return Path(text)


class Parser(argparse.ArgumentParser):
    """Parse the words of one command. A flag that was not typed is not in the namespace, unless it has a default.

    Args:
        command: its name.
        words: what follows the name in the usage line.
        description: what it does.
        epilog: the help's last words.
    """

    def __init__(self, command: str, words: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"pyro-vae {command}",
            usage=f"pyro-vae {command} {words}",
            description=description,
            epilog=epilog,
            formatter_class=_Formatter,
            argument_default=argparse.SUPPRESS,
            add_help=False,
            allow_abbrev=False,
        )
        self._command = command

    def has_flag(self, flag: str) -> bool:
        """Whether a flag was added, or is one of all commands."""
        return flag in self._option_string_actions or flag in (*SWITCHES, "--help")

    def known(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the flags that are known so far, and ignore all other words."""
        return self.parse_known_args(spelled(argv))[0]

    def read(
        self,
        argv: Sequence[str],
        explain: Callable[[str], str | None] = lambda _: None,
        flags_of: Callable[[str], Sequence[str]] = lambda _: (),
    ) -> argparse.Namespace:
        """Add the flags of all commands, which come last in the help, and return the flags that were typed.

        Args:
            argv: words after the command.
            explain: returns the message for an unknown flag; None for the usual one.
            flags_of: returns the flags that a word may belong to which was typed without a flag.

        Raises:
            HelpWanted: ``--help`` was typed.
            ValueError: a word is unknown or missing.
        """
        group = self.add_argument_group("flags of all commands")
        for name, what in SWITCHES.items():
            group.add_argument(name, action="store_true", help=what)
        group.add_argument("-h", "--help", action="store_true", help="this")
        if wants_help(argv):
            raise HelpWanted(self.format_help().rstrip())
        namespace, unknown = self.parse_known_args(spelled(argv))
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        if flag is not None:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            hint = did_you_mean(flag, known, quoted=False)
            raise ValueError(explain(flag) or self._see(f"there is no flag {flag}.{hint}"))
        if unknown:
            meant = " or ".join(f"{flag} {unknown[0]}" for flag in flags_of(unknown[0]))
            hint = f" Did you mean {meant}?" if meant else ""
            raise ValueError(self._see(f"{unknown[0]!r} is one word too many.{hint}"))
        return namespace

    def error(self, message: str) -> NoReturn:
        """Raise a ValueError with argparse's message in plain words."""
        missing = re.fullmatch(r"the following arguments are required: (.*)", message)
        wrong = re.fullmatch(r"argument (\S+): (must .*)", message)
        lacking = re.fullmatch(r"argument (\S+): expected (?:at least )?one argument", message)
        if missing:
            message = f"{self._command} needs {missing[1].replace(', ', ' and ')}."
        elif lacking:
            message = f"{lacking[1]} needs a value."
        elif wrong:
            message = f"{wrong[1]} {wrong[2]}"
        raise ValueError(self._see(message))

    def _see(self, message: str) -> str:
        return f"{message} `{self.prog} --help` lists what there is."


class _Formatter(argparse.HelpFormatter):
    """Formats help in a readable width, and names the values of a list once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=COLUMNS)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        metavar: Any = action.metavar or default_metavar
        return f"{metavar} ..." if action.nargs == "+" else super()._format_args(action, default_metavar)


def spelled(argv: Sequence[str]) -> list[str]:
    """Spell flags with _ in place of -, and tie negative numbers to their flags.

    >>> spelled(["--hidden-dims", "20", "--prior.low", "-1e-3", "run-1"])
    ['--hidden_dims', '20', '--prior.low=-1e-3', 'run-1']
    """
    words: list[str] = []
    for word in argv:
        if NEGATIVE.match(word) and words and words[-1].startswith("--") and "=" not in words[-1]:
            words[-1] += f"={word}"
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            words.append("--" + name[2:].replace("-", "_") + equals + value)
        else:
            words.append(word)
    return words
