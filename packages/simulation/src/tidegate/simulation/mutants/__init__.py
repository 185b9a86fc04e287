"""Planted faults: each takes one promise away, from a real core or from a modelled shell; the checker must notice each.

A mutant that survives means that an invariant or a fault is missing here.
"""
