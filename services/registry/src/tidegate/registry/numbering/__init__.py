"""Which number a version gets, and why: pure values and rules, no clock, no input or output."""
