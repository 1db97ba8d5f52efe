"""Comparisons of configurations and tests of uniformity: numbers in, numbers out."""
