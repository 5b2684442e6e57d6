"""Our parts with the weights that the recorded numbers were made with. All tests share them: leave them as they are."""

from __future__ import annotations

import golden_weights
import pytest

from audiostory.model.bridge import Bridge
from audiostory.model.dit import VelocityDiT
from audiostory.model.text_encoder import TextEncoder


@pytest.fixture(scope="session")
def golden_bridge() -> Bridge:
    return golden_weights.model().bridge


@pytest.fixture(scope="session")
def golden_dit() -> VelocityDiT:
    return golden_weights.model().dit


@pytest.fixture(scope="session")
def golden_text_encoder() -> TextEncoder:
    encoder = golden_weights.model().text_encoder
    assert encoder is not None
    return encoder
