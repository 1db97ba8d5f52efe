import builtins
import sys
from types import SimpleNamespace

import pytest

from benchmarks import stages
from benchmarks.stages import Stopwatch, imports_charged, wrap_epochs


class Clock:
    """Stands still until it is told how much later it is."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_moment_belongs_to_the_innermost_stage_alone(clock):
    watch = Stopwatch("other", clock)
    clock.now += 1
    with watch.stage("outer"):
        clock.now += 2
        with watch.stage("inner"):
            clock.now += 4
            watch.switch("next")
            clock.now += 8
        clock.now += 16
    clock.now += 32
    watch.charge()
    assert watch.seconds == {"other": 33, "outer": 18, "inner": 4, "next": 8}


def test_a_stage_ends_with_an_error_too(clock):
    watch = Stopwatch("other", clock)

    def fails() -> None:
        clock.now += 1
        raise KeyError

    with pytest.raises(KeyError):
        watch.around("failing", fails)()
    clock.now += 2
    watch.charge()
    assert watch.seconds == {"other": 2, "failing": 1}


def test_an_import_is_charged_to_the_package_it_loads_wherever_it_happens(tmp_path, monkeypatch, clock):
    watch = Stopwatch("other", clock)
    sources = {
        "ours_": "tick(1)\nimport json, engine_, small_\ntick(2)",
        "small_": "tick(4)",
        "engine_/__init__": "tick(8)",
        "engine_/compiler": "tick(16)\nimport engine_.graphs",
        "engine_/graphs": "tick(32)",
        "figures_": "tick(64)\nimport engine_.compiler",
    }
    for name, source in sources.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"from ticking import tick\n{source}\n")

    def tick(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setitem(sys.modules, "ticking", SimpleNamespace(tick=tick))
    monkeypatch.setattr(stages, "PACKAGES", ("ours_", "engine_", "engine_.compiler", "figures_"))
    monkeypatch.syspath_prepend(tmp_path)
    do_import = builtins.__import__
    with imports_charged(watch):
        import ours_  # noqa: F401

        clock.now += 128
        import figures_  # noqa: F401
    assert builtins.__import__ is do_import
    watch.charge()
    assert watch.seconds == {
        "other": 128,
        "imports: ours_": 1 + 4 + 2,  # no name of its own for small_
        "imports: engine_": 8,
        "imports: figures_": 64,
        "imports: engine_.compiler": 16 + 32,  # with what it alone needs of the engine
    }


def test_the_first_step_of_a_run_is_told_from_the_others(clock):
    watch = Stopwatch("other", clock)
    steps = iter([10, 1, 2, 4])
    reported = []

    class Training:
        def epoch(self, index, kl_weight, on_step):
            for _ in range(2):
                clock.now += next(steps)
                on_step()
            return index + kl_weight

    wrap_epochs(watch, Training)
    assert Training().epoch(3, 0.5, lambda: reported.append("step")) == 3.5
    assert Training().epoch(4, 0.5, lambda: reported.append("next")) == 4.5
    assert reported == ["step", "step", "next", "next"]
    assert watch.seconds == {"other": 0, stages.FIRST_STEP: 10, stages.STEPS: 1 + 2 + 4}
