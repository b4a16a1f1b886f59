"""Backends of the greedy elimination: one module each, the same function in all of them."""

# A float32 pivot this small against its undowndated value has lost about half of its digits: start again in float64.
LOST = 1e-4
