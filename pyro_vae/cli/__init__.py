"""The command line ``pyro-vae``: find the command, print an error in one line, return the exit code."""

import contextlib
import importlib
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence

from pyro_vae.cli.output import HelpWanted, Output, standard_output
from pyro_vae.runtime.arguments import named_as
from pyro_vae.runtime.memory import is_out_of_memory
from pyro_vae.runtime.user_code import place_of, told, with_place
from pyro_vae.runtime.wording import did_you_mean
from pyro_vae.version import __version__

COMMANDS = {
    "fit": ("fit", "fit a model and a guide to data, and measure them"),
    "evaluate": ("evaluate", "measure a run again, with more samples or other ones"),
    "compare": ("compare", "fit and measure all cells of a grid, and write a report"),
    "report": ("report", "write the report of a comparison again"),
    "figures": ("figures", "draw a run: learning curves, reconstructions, samples, traversals"),
    "list": ("list_parts", "name the parts and the data sets that there are"),
}
"""By name: the module whose ``run`` is the command, and what the command does.

A module is imported when its command is run.
"""

SWITCHES = {
    "--quiet": "no bars and notes, only results",
    "--json": "results as JSON on standard output, all else on standard error",
    "--debug": "show the traceback of an error",
}
"""Flags of all commands, which may stand before the command as well."""

USAGE, BUG, INTERRUPTED = 2, 1, 130
"""Exit codes: an error that the user can mend, a bug, and Ctrl-C (128 + SIGINT, as in a shell)."""

WIDTH = 12
"""Characters of the column of names in the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: words after the program's name; those of the process unless given.

    Returns:
        The exit code: 0 after success; 1 if cells of a comparison failed, or after a bug; 2 after an error that the
        user can mend; 130 after Ctrl-C.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    with standard_output() if argv is None else contextlib.nullcontext(sys.stdout) as stream:
        output = Output(stream, quiet="--quiet" in typed, json="--json" in typed)
        return _guarded([word for word in typed if word not in SWITCHES], output, "--debug" in typed)


def _guarded(words: list[str], output: Output, debug: bool) -> int:
    """Run a command, and print an error in one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr), short_warnings(debug), named_as("flags"):
            return _run(words, output)
    except HelpWanted as wanted:
        output.text(str(wanted))
        return 0
    except KeyboardInterrupt:
        _say(f"interrupted. {output.after_interrupt()}".rstrip())
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        message = message_of(error)
        if message is None:
            _say(f"error: unexpected {type(error).__name__}: {error} (--debug shows where it comes from)")
            return BUG
        _say(f"error: {message}")
        return USAGE


def _run(words: list[str], output: Output) -> int:
    if not words:
        raise ValueError(f"say what to do: {', '.join(COMMANDS)}. `pyro-vae --help` explains them.")
    command, *rest = words
    if command in ("-h", "--help"):
        raise HelpWanted(_help())
    if command == "--version":
        raise HelpWanted(f"pyro-vae {__version__}")
    if command not in COMMANDS:
        what, known = ("flag", [*SWITCHES, "--help", "--version"]) if command[0:1] == "-" else ("command", [*COMMANDS])
        place = " before the command" if what == "flag" else ""
        hint = did_you_mean(command, known, quoted=False)
        raise ValueError(f"there is no {what} {command!r}{place}.{hint} There are {', '.join(known)}.")
    code: int = importlib.import_module(f"pyro_vae.cli.{COMMANDS[command][0]}").run(rest, output)
    return code


def _help() -> str:
    lines = [
        "usage: pyro-vae COMMAND [flags]",
        "",
        "Variational autoencoders in Pyro: swap posteriors, priors and objectives, and measure how good",
        "the inference is. Bounds and log-likelihoods are in nats a datum, training lasts epochs, times",
        "are in seconds.",
        "",
        "commands:",
        *(f"  {name:<{WIDTH}}{what}" for name, (_, what) in COMMANDS.items()),
        "",
        "flags:",
        *(f"  {name:<{WIDTH}}{what}" for name, what in SWITCHES.items()),
        f"  {'--version':<{WIDTH}}say which version this is",
        f"  {'--help':<{WIDTH}}this, or after a command the help of that command",
    ]
    return "\n".join(lines)


def message_of(error: Exception, *, with_places: bool = True) -> str | None:
    """Return an error's message for the user; None if the user cannot mend the error.

    Args:
        error: the exception that ended the work.
        with_places: add where in the user's code it arose. A script of this project is not the user's code.
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("pyro_vae"):
        return f"this needs the package {error.name}, which is not installed."
    is_ours = type(error).__module__.startswith("pyro_vae.")
    if not is_ours and is_out_of_memory(error):
        return "this needs more memory than there is: take smaller networks, fewer latent dims or fewer data."
    place = place_of(error) if with_places and not is_ours else ""
    if isinstance(error, ValueError | OSError | ImportError) or is_ours:
        return with_place(str(error), error) if place else str(error)
    return f"{told(error)}." if place else None


def _say(message: str) -> None:
    """Print a message in one line on standard error."""
    with contextlib.suppress(BrokenPipeError):
        print("pyro-vae:", *message.split(), file=sys.stderr, flush=True)  # noqa: T201


@contextlib.contextmanager
def short_warnings(debug: bool) -> Iterator[None]:
    """Print a warning in one line, without the place in the code where it arose."""
    before = warnings.formatwarning
    if not debug:
        warnings.formatwarning = lambda message, *_, **__: f"pyro-vae: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
