"""Carry a point along the landscape: optimisers, ensembles, flows."""
