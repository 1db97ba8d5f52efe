"""What every part owes, as test classes: derive one in a test file, say how the part is made, and run pytest.

>>> from pyro_vae.testing import GuideSuite
>>> class TestMyGuide(GuideSuite):
...     part = "low_rank(rank=2)"  # or "path/to/file.py:MyGuide", or a method `make` that returns it

Nothing here needs pytest: methods whose names start with ``test_`` take no arguments and raise an AssertionError that
says what is not as it should be. ``pytest.register_assert_rewrite("pyro_vae.testing")``, in a conftest.py and before
anything of this is imported, shows the values as well.
"""

from pyro_vae.testing.guide import GuideSuite
from pyro_vae.testing.likelihood import LikelihoodSuite
from pyro_vae.testing.model import ModelSuite
from pyro_vae.testing.network import NetworkSuite
from pyro_vae.testing.objective import ObjectiveSuite
from pyro_vae.testing.prior import PriorSuite

__all__ = ["GuideSuite", "LikelihoodSuite", "ModelSuite", "NetworkSuite", "ObjectiveSuite", "PriorSuite"]
