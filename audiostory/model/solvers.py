"""The names of the ways to walk from noise to latents (`flow.solve` walks them), and what they cost. No torch here."""

from __future__ import annotations

import difflib

EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2, "ab2": 1}
"""Of the velocity in each step. `ab2` is the Adams-Bashforth method of two steps."""


def check(solver: str) -> None:
    """ValueError for a name that is none of these."""
    if solver not in list(EVALUATIONS):  # it may come from a file, and be anything
        near = difflib.get_close_matches(str(solver).lower(), EVALUATIONS, n=1, cutoff=0.5)
        meant = f"; {near[0]!r} was meant?" if near else ""
        raise ValueError(f"the solver must be {', '.join(EVALUATIONS)}, not {solver!r}{meant}")


def evaluations(solver: str, steps: int) -> int:
    """How often the velocity is asked for: what `steps` of a solver cost. evaluations("heun", 25) = 50."""
    check(solver)
    return EVALUATIONS[solver] * steps
