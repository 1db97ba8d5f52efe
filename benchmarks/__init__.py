"""Side-by-side speed, as ratios in one run: ``python -m benchmarks.step``, ``python -m benchmarks.log_likelihood``."""
