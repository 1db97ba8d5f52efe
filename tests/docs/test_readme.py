"""The README's blocks run and print what they show."""

import math
import re

import pytest
import torch
from documented_pages import PAGES, ROOT, blocks_of, run_all

import pyro_vae


def test_the_readme_does_what_it_shows(page):
    """But for what installs and tests the package, which CI does, and for commands that a page in docs/ has as well.

    A pair that was fitted together has on test images the bound that it had on validation images, and the gaps of one
    of whose nats few are lost; one that was not is hundreds of nats away.
    """
    blocks = blocks_of((ROOT / "README.md").read_text(), "README.md")
    elsewhere = {block.text for path in PAGES for block in blocks_of(path.read_text(), path.name) if not block.slow}
    commands = {block.text for block in blocks if block.text.startswith("pyro-vae")} - elsewhere
    run_all([block for block in blocks if block.kind != "bash" or block.text in commands], page)
    first, second, third = page.outputs
    there = page.namespace
    data = there["data"]
    for printed, name in ((first, "run"), (second, "swapped")):
        elbo = float(re.match(r"ELBO (\S+) = ", printed)[1])
        # 500 images each; the objective's bound of the last epoch takes one sample an image.
        difference = elbo - there[name].history[-1]["valid_bound_nats"]
        assert abs(difference) < 4 * math.hypot(1.8, 1.8), name
    assert float(re.search(r"log p\(x\) >= (\S+)", first)[1]) > float(re.match(r"ELBO (\S+) = ", first)[1])
    few, gaps, evidence = there["few"], there["gaps"], there["evidence"]
    torch.testing.assert_close(few, data.test[:5], rtol=0, atol=0)
    terms = pyro_vae.elbo_terms(there["run"].model, there["run"].guide, few, num_samples=1000, seed=1)
    error = math.hypot(terms.elbo.standard_error, gaps.elbo.standard_error)
    assert abs(terms.elbo.mean - gaps.elbo.mean) < 5 * error
    assert gaps.inference_gap.mean == pytest.approx(evidence.mean - gaps.elbo.mean, abs=1e-4)
    whole = gaps.approximation_gap.mean + gaps.amortization_gap.mean
    assert gaps.inference_gap.mean == pytest.approx(whole, abs=1e-4)
    assert 0 < gaps.approximation_gap.mean < 15
    assert 0 < gaps.amortization_gap.mean < 25
    assert re.match(r"inference gap (\S+) ", third)[1] == f"{gaps.inference_gap.mean:.2f}"
