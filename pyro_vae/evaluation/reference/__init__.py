"""Draws from the posterior by NUTS, and a guide held against them."""
