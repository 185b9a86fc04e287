"""The invariants by theme; all of them look at the same facts (facts.py)."""
