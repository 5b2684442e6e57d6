"""FAD-infinity: the line it reads, and that it takes away the bias of few vectors, which fadtk's does not."""

import numpy as np
import pytest

from audiostory.benchmark.metrics.frechet import frechet_distance
from audiostory.benchmark.metrics.frechet_infinity import frechet_infinity

WIDTH = 8


def vectors(num, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(num, WIDTH)) + shift


REFERENCE = vectors(20_000, 100)


def test_of_one_gaussian_it_is_near_0_but_with_replacement_it_keeps_the_bias_of_the_vectors_at_hand():
    """The truth is 0. A single line wanders by as much as it removes, so the mean over some seeds is asked."""
    values = {True: [], False: []}
    plain = []
    for seed in range(12):
        generated = vectors(1000, seed)
        plain.append(frechet_distance(generated, REFERENCE))
        for replacement, found in values.items():
            found.append(frechet_infinity(generated, REFERENCE, replacement=replacement, seed=seed).value)
    assert np.mean(values[True]) == pytest.approx(np.mean(plain), rel=0.4)
    assert abs(np.mean(values[False])) < 0.4 * np.mean(plain)


def test_a_seed_gives_the_same_figure_again_and_the_line_goes_through_its_points():
    generated = vectors(900, 1, shift=0.2)
    first, again, other = (frechet_infinity(generated, REFERENCE, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert [first.points[i][0] for i in (0, 1, -1)] == [500, 516, 900]
    assert first.points[-1][1] == pytest.approx(frechet_distance(generated, REFERENCE))
    sizes, distances = np.array(first.points).T
    line = first.value + first.slope / sizes
    spread = np.square(distances - distances.mean()).sum()
    assert first.r_squared == pytest.approx(1 - np.square(distances - line).sum() / spread)


def test_too_few_vectors_for_a_line_are_refused():
    with pytest.raises(ValueError, match="got 500 generated vectors and smallest=500"):
        frechet_infinity(vectors(500, 0), REFERENCE)
    with pytest.raises(ValueError, match="at least 2 steps"):
        frechet_infinity(vectors(600, 0), REFERENCE, steps=1)
