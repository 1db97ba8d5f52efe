"""Lower bounds on log p(x) from importance weights."""
