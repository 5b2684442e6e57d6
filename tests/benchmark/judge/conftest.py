"""A loopback judge, and stories of one tone each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmark.judge.loopback import Loopback, write_tone

PITCHES = (300, 600, 900)


@pytest.fixture(scope="session")
def loopback_server() -> Iterator[Loopback]:
    with Loopback().running() as running:
        yield running


@pytest.fixture
def server(loopback_server) -> Iterator[Loopback]:
    """The same for all tests, without memory of those before."""
    loopback_server.reset()
    yield loopback_server
    loopback_server.reset()


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    """No key of the person who runs the tests is ever sent anywhere, and no proxy stands between."""
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def tone(tmp_path) -> Path:
    return write_tone(tmp_path / "tone.wav", 600)


@pytest.fixture
def told(tmp_path) -> Path:
    """Three told stories, as evaluate/inference.py leaves them: tones of 300, 600 and 900 Hz."""
    for number, hertz in enumerate(PITCHES):
        folder = tmp_path / "told" / f"story-{number}"
        write_tone(folder / "story.wav", hertz)
        event = {"caption": f"a tone of {hertz} Hz", "start": 0.0, "seconds": 0.5, "audio": "event_01.wav"}
        record = {"instruction": f"a tone of {hertz} Hz", "summary": "a tone", "events": [event], "reasoning": "one"}
        (folder / "storyline.json").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path / "told"
