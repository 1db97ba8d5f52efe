"""Every part is held to the suite of its kind, by its own test file. One that is not fails here; it is not skipped."""

import pytest
from held_parts import held_parts, suites_in

from pyro_vae.parts import KINDS, part_names


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_held_to_its_suite(kind):
    assert set(held_parts(kind)) == set(part_names(kind)), (
        f"the test file of each {kind} needs a class of pyro_vae.testing.{kind.title()}Suite, with `part = ...`"
    )


def test_every_suite_of_a_file_is_found():
    source = """
class TestPlain(GuideSuite):
    part = "iaf"


class TestWithWords(testing.GuideSuite):
    '''A docstring.'''

    latent_dim = 3
    part: ClassVar[str] = 'iaf(num_flows=2)'
    model = "hierarchical_vae"


class TestMade(GuideSuite):
    def make(self):
        return None
"""
    assert suites_in(source) == [
        ("GuideSuite", "iaf", "vae"),
        ("GuideSuite", "iaf(num_flows=2)", "hierarchical_vae"),
    ]
