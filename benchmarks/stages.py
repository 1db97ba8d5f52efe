"""Runs ``examples/svi_mnist.py`` in this process and writes down what each of its stages took.

    python benchmarks/stages.py seconds.json [the example's arguments]

The example is not changed: functions that it calls are wrapped from outside. This file imports only the standard
library until the clock runs.
"""

import builtins
import functools
import importlib
import importlib.util
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "svi_mnist.py"

PACKAGES = ("torch", "torch._dynamo", "pyro", "pyro_vae", "torchvision", "matplotlib", "arviz", "scipy", "pandas")
"""Imports that are told apart; any other is part of the one that asks for it."""

FIRST_STEP = "fit: first step, with its graph"
STEPS = "fit: steps"

OF_THE_EXAMPLE = {"load": "data", "make_pair": "model", "draw": "figures"}
"""Functions of the example, and their stages."""

OF_THE_LIBRARY = {
    "pyro_vae:fit": "fit: checks",
    "pyro_vae.fit.training:Training.validate": "fit: validation",
    "pyro_vae.fit.loop:save": "fit: run folder",
    "pyro_vae:elbo_terms": "evaluation: ELBO",
    "pyro_vae:active_units": "evaluation: active units",
    "pyro_vae:log_likelihood": "evaluation: log-likelihood",
    "pyro_vae.graphs.levels:capture": "evaluation: capture",
    "pyro_vae.graphs.levels:native_draws": "evaluation: compile",
}
"""Functions of the library, and their stages."""


class Stopwatch:
    """Charges every moment to one stage, the innermost that is open, so that the stages add up to the whole."""

    def __init__(self, outermost: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open = [outermost]
        self._clock = clock
        self._charged_until = clock()

    @property
    def current(self) -> str:
        """The innermost stage."""
        return self._open[-1]

    def charge(self) -> None:
        """Charge what has passed since the last time to the innermost stage."""
        now = self._clock()
        self.seconds[self.current] += now - self._charged_until
        self._charged_until = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Open a stage within the current one."""
        self.charge()
        self._open.append(name)
        try:
            yield
        finally:
            self.charge()
            self._open.pop()

    def switch(self, name: str) -> None:
        """Close the innermost stage and open another in its place."""
        self.charge()
        self._open[-1] = name

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with each call of it a stage."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        return timed


@contextmanager
def imports_charged(watch: Stopwatch) -> Iterator[None]:
    """Make each import of one of the `PACKAGES` a stage, wherever it happens: many wait until they are needed."""
    do_import = builtins.__import__

    def timed(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and (package := _package_of(name)) is not None:
            stage = f"imports: {package}"
            # What torch._dynamo needs of torch is loaded for it alone.
            if watch.current != stage and not watch.current.startswith(f"{stage}."):
                with watch.stage(stage):
                    return do_import(name, globals, locals, fromlist, level)
        return do_import(name, globals, locals, fromlist, level)

    builtins.__import__ = timed
    try:
        yield
    finally:
        builtins.__import__ = do_import


def _package_of(name: str) -> str | None:
    return max((p for p in PACKAGES if name == p or name.startswith(f"{p}.")), key=len, default=None)


def wrap_library(watch: Stopwatch) -> None:
    """Wrap the functions of the library, for the rest of this process."""
    for path, stage in OF_THE_LIBRARY.items():
        module, _, name = path.partition(":")
        *classes, function = name.split(".")
        owner = functools.reduce(getattr, classes, importlib.import_module(module))
        setattr(owner, function, watch.around(stage, getattr(owner, function)))
    wrap_epochs(watch, importlib.import_module("pyro_vae.fit.training").Training)


def wrap_epochs(watch: Stopwatch, training: Any) -> None:
    """Tell the first step, which is captured, from those that follow."""
    epoch, stage = training.epoch, FIRST_STEP

    @functools.wraps(epoch)
    def timed(self: Any, index: int, kl_weight: float, on_step: Callable[[], object]) -> float:
        def after_step() -> None:
            nonlocal stage
            stage = STEPS
            watch.switch(stage)
            on_step()

        with watch.stage(stage):
            return epoch(self, index, kl_weight, after_step)

    training.epoch = timed


def main() -> None:
    """Run the example as its user does, and write the seconds, with the time of day before and after."""
    began, watch = time.time(), Stopwatch("other")
    file, *arguments = sys.argv[1:]
    sys.argv = [str(EXAMPLE), *arguments]
    sys.path[0] = str(EXAMPLE.parent)
    with imports_charged(watch):
        with watch.stage("imports: others"):
            spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
            example = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(example)
            wrap_library(watch)
        for name, stage in OF_THE_EXAMPLE.items():
            setattr(example, name, watch.around(stage, getattr(example, name)))
        example.main()
    watch.charge()
    Path(file).write_text(json.dumps({"began": began, "ended": time.time(), "seconds": watch.seconds}))


if __name__ == "__main__":
    main()
