"""Backends of the greedy elimination: one module each, the same function in all of them."""
