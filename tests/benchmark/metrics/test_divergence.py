"""KL in both directions against torch's, the direction by a case where it matters, and pairs by name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audiostory.benchmark.metrics.divergence import divergence


def logits(num, seed, classes=12):
    rows = np.random.default_rng(seed).normal(size=(num, classes)) * 3
    return {f"clip {number}": row for number, row in enumerate(rows)}


def by_torch(right, left, shares):
    """As the tools have it: F.kl_div(log(right + eps), left) is KL(left || right)."""
    right, left = (shares(torch.as_tensor(np.stack(list(side.values())))) for side in (right, left))
    return (torch.nn.functional.kl_div((right + 1e-6).log(), left, reduction="sum") / len(left)).item()


def test_it_is_what_torch_gives_in_both_directions_and_forms():
    told, true = logits(30, 1), logits(30, 2)
    found = divergence(told, true)
    softmax, sigmoid = (lambda x: x.softmax(1)), torch.sigmoid
    assert found.kl_reference_to_generated.mean == pytest.approx(by_torch(told, true, softmax))
    assert found.kl_generated_to_reference.mean == pytest.approx(by_torch(true, told, softmax))
    assert found.kl_sigmoid_reference_to_generated.mean == pytest.approx(by_torch(told, true, sigmoid))
    assert found.kl_sigmoid_generated_to_reference.mean == pytest.approx(by_torch(true, told, sigmoid))
    assert found.kl_reference_to_generated.low < found.kl_reference_to_generated.mean
    assert found.kl_reference_to_generated.num == 30


def test_the_direction_is_the_one_in_the_name():
    """The reference is sure of one of two classes, what is told is torn: KL(sure || torn) is log 2, the other large."""
    found = divergence({"a": np.zeros(2)}, {"a": np.array([50.0, -50.0])})
    assert found.kl_reference_to_generated.mean == pytest.approx(math.log(2), abs=1e-5)
    assert found.kl_generated_to_reference.mean == pytest.approx(-math.log(2) - 0.5 * math.log(1e-6), abs=1e-4)


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_proper_divergence_is_negative_by_no_more_than_what_the_tools_add(told, true):
    found = divergence({"a": np.array(told)}, {"a": np.array(true)})
    assert found.kl_reference_to_generated.mean >= -3e-6 - 1e-12
    same = divergence({"a": np.array(told)}, {"a": np.array(told)})
    assert same.kl_reference_to_generated.mean == pytest.approx(0, abs=3.1e-6)
    assert same.kl_reference_to_generated.mean <= 0


def test_pairs_are_found_by_name_and_the_rest_is_named():
    told, true = logits(6, 1), logits(6, 2)
    shuffled = {name: told[name] for name in reversed(told)}
    assert divergence(shuffled, true) == divergence(told, true)
    told["only told"], true["only true"] = np.zeros(12), np.zeros(12)
    found = divergence(told, true)
    assert found.unpaired == ("only told", "only true")
    assert found.kl_reference_to_generated.num == 6


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="no recording is on both sides"):
        divergence({"a": np.zeros(3)}, {"b": np.zeros(3)})
    with pytest.raises(ValueError, match="logits of a have the shapes"):
        divergence({"a": np.zeros(3)}, {"a": np.zeros(4)})
    with pytest.raises(ValueError, match="logits of a are not finite"):
        divergence({"a": np.array([np.nan, 0])}, {"a": np.zeros(2)})
