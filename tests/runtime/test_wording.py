"""Numbers in words."""

import math

from pyro_vae.runtime.wording import count, rounded_error


def test_counts_in_words():
    assert [count(1, "image"), count(0, "datum"), count(3, "datum")] == ["1 image", "0 data", "3 data"]


def test_errors_have_two_decimals_or_two_digits():
    assert [rounded_error(value) for value in (3.14159, 0.0951, 0.0949, 0.00123, 0.0, math.nan)] == [
        "3.14", "0.10", "0.095", "0.0012", "0", "unknown",
    ]  # fmt: skip
