"""The Fréchet distance against closed forms and against scipy's root of the covariances' product."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from audiostory.benchmark.metrics.frechet import Gaussian, distance, frechet_distance
from audiostory.benchmark.metrics.sets import unequal_numbers


def vectors(num, width, seed=0, shift=0.0):
    """Correlated features, as networks have them."""
    rng = np.random.default_rng(seed)
    mixture = np.random.default_rng(99).normal(size=(width, width)) / width**0.5
    return rng.normal(size=(num, width)) @ mixture + shift


def by_the_book(first, second):
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    between = first.mean(0) - second.mean(0)
    root = np.trace(sqrtm(covariances[0] @ covariances[1])).real
    return between @ between + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root


@pytest.mark.parametrize(("num", "other", "width"), [(500, 400, 16), (300, 1000, 64), (40, 50, 96), (5, 200, 32)])
def test_it_is_what_scipys_root_gives_also_with_fewer_vectors_than_features(num, other, width):
    first, second = vectors(num, width, 1), vectors(other, width, 2, shift=0.1)
    assert frechet_distance(first, second) == pytest.approx(by_the_book(first, second), rel=1e-6)


def test_gaussians_with_diagonal_covariances_have_the_known_distance():
    deviations, means = np.array([[1.0, 2.0, 0.0], [3.0, 0.5, 2.0]]), np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 0.0]])
    known = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    first, second = (Gaussian(mean=mean, root=np.diag(root)) for mean, root in zip(means, deviations, strict=True))
    assert distance(first, second) == pytest.approx(known)


def test_samples_of_a_known_spread_have_the_known_distance():
    """Two vectors at +-a on each axis have the variance 2 a^2 there, and the axes are uncorrelated."""
    first, second = np.vstack([np.eye(3), -np.eye(3)]), 2 * np.vstack([np.eye(3), -np.eye(3)])
    variances = 2 / 5, 8 / 5  # of each feature, over n - 1 = 5
    known = 3 * (variances[0] ** 0.5 - variances[1] ** 0.5) ** 2
    assert frechet_distance(first, second) == pytest.approx(known)


def test_the_same_vectors_are_0_apart_and_shifted_ones_the_shift_squared():
    features = vectors(60, 128)  # singular covariances
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features[::-1] + 0.5) == pytest.approx(128 * 0.25)


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 50))
def test_it_is_symmetric_never_negative_and_grows_with_the_square_of_the_scale(scale, seed):
    first, second = vectors(20, 6, seed), vectors(30, 6, seed + 1, shift=0.3)
    value = frechet_distance(first, second)
    assert value >= 0
    assert frechet_distance(second, first) == pytest.approx(value)
    assert frechet_distance(scale * first, scale * second) == pytest.approx(scale**2 * value)


def test_half_precision_features_are_summed_in_double():
    features = vectors(5000, 4) + 100
    first, second = features[:2500].astype(np.float16), features[2500:].astype(np.float16)
    assert frechet_distance(first, second) == pytest.approx(
        frechet_distance(first.astype(np.float64), second.astype(np.float64)), rel=1e-12
    )


def test_it_falls_with_the_number_of_vectors_hence_the_warning():
    few, many = (frechet_distance(vectors(num, 16, 1), vectors(num, 16, 2)) for num in (50, 5000))
    assert many < 0.1 * few
    assert unequal_numbers(50, 50, "recordings") is None
    assert "50 recordings generated, 5000 in the reference" in (unequal_numbers(50, 5000, "recordings") or "")


def test_sets_that_do_not_compare_are_refused():
    good, broken = vectors(10, 4), vectors(10, 4)
    broken[7, 2] = np.nan
    with pytest.raises(ValueError, match="1 generated vectors have no spread"):
        frechet_distance(good[:1], good)
    with pytest.raises(ValueError, match="differ in width"):
        frechet_distance(good, good[:, :3])
    with pytest.raises(ValueError, match="the reference vector 7 holds features that are not finite"):
        frechet_distance(good, broken)
    with pytest.raises(ValueError, match=r"shape \[4\]; expected \[vectors, features\]"):
        frechet_distance(good, good[0])
