"""What the latents carry: active units, rates, the aggregate posterior, a linear probe."""
