"""Laws and transforms that guides, priors and likelihoods share."""
