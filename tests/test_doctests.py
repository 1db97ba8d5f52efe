"""Every docstring's example runs, module by module."""

import doctest
import importlib
import pkgutil

import pytest

import pyro_vae

NAMES = sorted(module.name for module in pkgutil.walk_packages(pyro_vae.__path__, "pyro_vae."))


def examples_of(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name)) if test.examples]


def test_there_are_examples_and_they_are_found_behind_the_links():
    found = {name for name in NAMES if examples_of(name)}
    assert len(found) >= 8
    assert any(name.startswith("pyro_vae.models.priors.") for name in found)
    assert any(name.startswith("pyro_vae.guides.") for name in found)


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples_of(name):
        runner.run(test)
    assert runner.failures == 0
