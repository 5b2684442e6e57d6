"""The kernel distance against two loops over pairs, against its closed form, and within bounds of memory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.metrics import kernel
from audiostory.benchmark.metrics.kernel import kernel_distance, median_distance


def vectors(num, width=5, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(num, width)) + shift


def by_two_loops(generated, reference, bandwidth):
    def k(a, b):
        return math.exp(-sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (2 * bandwidth**2 + 1e-8))

    def within(side):
        values = [k(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j]
        return sum(values) / len(values)

    across = [k(a, b) for a in generated for b in reference]
    return 100 * (within(generated) + within(reference) - 2 * sum(across) / len(across))


def all_distances(side):
    return sorted(math.dist(a, b) for i, a in enumerate(side) for b in side[:i])


def test_it_is_what_two_loops_over_pairs_give():
    generated, reference = vectors(17, seed=1), vectors(23, seed=2, shift=0.4)
    distances = all_distances(reference)
    bandwidth = distances[(len(distances) - 1) // 2]
    found = kernel_distance(generated, reference)
    assert found.bandwidth == pytest.approx(bandwidth, rel=1e-6)
    assert found.value == pytest.approx(by_two_loops(generated, reference, bandwidth), rel=1e-6)


def test_of_two_points_each_the_value_is_known():
    """Generated at 0 and 2, reference at 0 and 1, bandwidth 1: k(2) + k(1) - 2 (k(0) + k(1) + k(2) + k(1)) / 4."""
    generated, reference = np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]])
    one, two = math.exp(-1 / 2), math.exp(-4 / 2)
    found = kernel_distance(generated, reference)
    assert found.bandwidth == pytest.approx(1.0)
    assert found.value == pytest.approx(100 * (two + one - (1 + 2 * one + two) / 2), rel=1e-6)


def test_far_apart_it_is_the_closeness_within_each_side():
    reference = np.array([[0.0], [1.0]])
    assert kernel_distance(reference + 1e4, reference).value == pytest.approx(200 * math.exp(-1 / 2), rel=1e-6)


def test_of_one_source_it_lies_around_0_whatever_the_number():
    for num in (20, 100):
        values = [kernel_distance(vectors(num, seed=s), vectors(num, seed=1000 + s)).value for s in range(60)]
        assert abs(np.mean(values)) < 4 * np.std(values) / 60**0.5
        assert min(values) < 0


def test_the_bandwidth_is_the_references_so_the_sides_are_not_alike():
    narrow, wide = vectors(40, seed=1), 5 * vectors(40, seed=2)
    assert kernel_distance(narrow, wide).bandwidth == pytest.approx(median_distance(wide))
    assert abs(kernel_distance(narrow, wide).value - kernel_distance(wide, narrow).value) > 1


def test_blocks_change_nothing_and_are_never_large(monkeypatch):
    generated, reference = vectors(31, seed=1), vectors(29, seed=2, shift=0.2)
    whole, sizes = kernel_distance(generated, reference), []
    monkeypatch.setattr(kernel, "LARGEST", 100)
    squared = kernel._squared

    def watched(rows, others):
        sizes.append(len(rows) * len(others))
        return squared(rows, others)

    monkeypatch.setattr(kernel, "_squared", watched)
    assert kernel_distance(generated, reference).value == pytest.approx(whole.value, rel=1e-9)
    assert max(sizes) <= 100


@settings(max_examples=50)
@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2), min_size=2, max_size=14))
def test_the_median_is_exact_for_any_distances(points):
    distances = all_distances(points)
    # |a|^2 + |b|^2 - 2ab of a far pair loses what is small beside it.
    expected, slack = distances[(len(distances) - 1) // 2], 1e-4
    assert median_distance(np.array(points)) == pytest.approx(expected, rel=1e-6, abs=slack)


def test_an_offset_of_all_features_loses_nothing():
    generated, reference = vectors(20, seed=1), vectors(20, seed=2)
    assert kernel_distance(generated + 1e5, reference + 1e5).value == pytest.approx(
        kernel_distance(generated, reference).value, rel=1e-6
    )


def test_a_reference_of_one_recording_repeated_is_refused():
    with pytest.raises(ValueError, match="bandwidth is 0"):
        kernel_distance(vectors(5), np.ones((6, 5)))
