"""What solvers cost, and what is said of a name that is none."""

from __future__ import annotations

import pytest

from audiostory.model import solvers


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 25), ("ab2", 25), ("midpoint", 50), ("heun", 50)])
def test_a_solver_costs_its_evaluations_in_every_step(solver: str, evaluations: int):
    solvers.check(solver)
    assert solvers.evaluations(solver, 25) == evaluations


@pytest.mark.parametrize(
    ("said", "meant"), [("hein", "heun"), ("Euler", "euler"), ("mid point", "midpoint"), ("ab-2", "ab2")]
)
def test_the_nearest_name_is_told(said: str, meant: str):
    with pytest.raises(ValueError, match=f"the solver must be euler, .*, not '{said}'; '{meant}' was meant"):
        solvers.check(said)


@pytest.mark.parametrize("said", ["", "runge", None, 3, {}])
def test_what_is_near_none_is_refused_all_the_same(said):
    with pytest.raises(ValueError, match=r"the solver must be euler, midpoint, heun, ab2, not [^;]*$"):
        solvers.check(said)
