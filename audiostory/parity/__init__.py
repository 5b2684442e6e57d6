"""Proof that we compute what the released system computes: `recording` reads what it did, `compare` runs the checks."""
