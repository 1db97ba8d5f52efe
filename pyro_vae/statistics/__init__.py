"""Compare configurations and test uniformity, from arrays of numbers."""
