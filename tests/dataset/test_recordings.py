"""Windows of several events out of single ones: what is in them, when, and that the seed alone decides it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from audiostory import sound
from audiostory.dataset import manifest
from audiostory.dataset.mixture import BatchLimits
from audiostory.dataset.recordings import FADE_SECONDS, LEVEL_DB, WHOLE_SHARE, Recordings
from audiostory.sound import Waveform

RATE = 1000
LENGTHS = (1.5, 2.0, 3.0, 4.0, 9.0, 14.0)
WINDOW = 10.0


def corpus(folder: Path, lengths: Sequence[float] = LENGTHS) -> manifest.Manifest:
    """Clip number k is a steady k + 1, so that a sample tells which clip it is of."""
    rows = []
    for number, seconds in enumerate(lengths):
        samples = np.full((1, round((seconds + 1) * RATE)), number + 1.0, dtype=np.float32)  # longer than its clip
        sound.write(folder / f"{number}.wav", Waveform(samples=samples, sample_rate=RATE))
        event = {"caption": f"sound {number}", "seconds": seconds, "audio": f"{number}.wav"}
        rows.append({"id": f"clip-{number}", "instruction": "x", "events": [event]})
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return manifest.read(path)


def tokenize(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[int(caption.split()[1]), 1] for caption in captions])
    return ids, ids >= 0


def recordings(rows: manifest.Manifest, num: int = 8, seed: int = 0, **options) -> Recordings:
    return Recordings(
        rows,
        tokenize,
        lambda windows: windows[:, None],
        BatchLimits(rows=num),
        sample_rate=RATE,
        window_seconds=WINDOW,
        seed=seed,
        **options,
    )


@pytest.fixture
def source(tmp_path) -> Recordings:
    return recordings(corpus(tmp_path))


def windows(source: Recordings, num: int):
    return [source.window(np.random.default_rng(number)) for number in range(num)]


def test_every_window_is_full_length_and_names_at_least_one_event(source):
    made = windows(source, 200)
    assert all(window.samples.shape == (RATE * WINDOW,) for window in made)
    assert all(window.samples.dtype == np.float32 for window in made)
    counts = [len(window.events) for window in made]
    assert min(counts) >= 1
    assert np.mean(np.array(counts) > 1) > 0.4
    assert {event.caption for window in made for event in window.events} == {f"sound {n}" for n in range(len(LENGTHS))}


def test_an_event_is_heard_in_its_span_and_nothing_else_is(source):
    fade = FADE_SECONDS + 2 / RATE
    for window in windows(source, 100):
        for event in window.events:
            assert 0 <= event.start < event.end <= WINDOW
            inside = window.samples[round((event.start + fade) * RATE) : round((event.end - fade) * RATE)]
            loudness = inside / (int(event.caption.split()[1]) + 1)
            np.testing.assert_allclose(loudness, loudness[0], rtol=1e-4)
            assert abs(20 * np.log10(loudness[0])) <= LEVEL_DB + 1e-3


def test_events_are_whole_or_nearly_so(source):
    lengths = {f"sound {number}": seconds for number, seconds in enumerate(LENGTHS)}
    spans = [
        (event.end - event.start, min(lengths[event.caption], WINDOW))
        for window in windows(source, 200)
        for event in window.events
    ]
    assert all(heard >= WHOLE_SHARE * whole - 1e-6 for heard, whole in spans)
    assert any(heard < 0.99 * whole for heard, whole in spans)
    assert all(heard <= whole + 1 / RATE for heard, whole in spans)


def test_a_long_clip_fills_its_window_from_any_place(tmp_path):
    only = recordings(corpus(tmp_path, (14.0,)))
    assert {(e.start, e.end) for window in windows(only, 20) for e in window.events} == {(0.0, WINDOW)}


def test_neighbours_overlap_by_a_fade_or_are_parted_by_silence(source):
    in_order = [window.events for window in windows(source, 300)]
    gaps = np.array([after.start - before.end for events in in_order for before, after in pairwise(events)])
    assert np.isclose(gaps, -FADE_SECONDS, atol=2 / RATE).mean() > 0.2
    assert (gaps > 0).mean() > 0.2
    assert gaps.min() > -FADE_SECONDS - 2 / RATE


def test_seed_and_number_alone_decide_a_batch(tmp_path):
    rows = corpus(tmp_path)
    first, again, other = recordings(rows), recordings(rows), recordings(rows, seed=1)
    first.batch(0)
    one, same = first.batch(7), again.batch(7)
    assert torch.equal(one.log_mel, same.log_mel)
    assert torch.equal(one.spans, same.spans)
    assert one.sample_ids == same.sample_ids
    assert not torch.equal(one.log_mel, other.batch(7).log_mel)
    assert not torch.equal(one.log_mel, first.batch(8).log_mel)


def test_a_batch_names_every_event_of_its_windows(source):
    made = source.batch(3)
    assert made.log_mel.shape == (8, 1, RATE * WINDOW)
    assert made.event_row.tolist() == sorted(made.event_row.tolist())
    assert set(made.event_row.tolist()) == set(range(8))
    assert len(made.event_row) == len(made.spans) == len(made.text_ids) == len(made.sample_ids)
    assert [f"clip-{ids[0]}/0" for ids in made.text_ids.tolist()] == list(made.sample_ids)


@pytest.mark.parametrize("pieces", [2, 3, 8])
def test_pieces_make_up_the_batch(source, pieces):
    whole, parts = source.batch(4), [source.batch(4, piece, pieces) for piece in range(pieces)]
    assert torch.equal(torch.cat([part.log_mel for part in parts]), whole.log_mel)
    assert sum((part.sample_ids for part in parts), ()) == whole.sample_ids


def test_more_pieces_than_windows_are_refused(source):
    with pytest.raises(ValueError, match="a batch has only 8 windows"):
        source.batch(0, 0, 9)


def test_a_clip_that_cannot_be_read_is_named_and_replaced(tmp_path, caplog):
    rows = corpus(tmp_path)
    (tmp_path / "2.wav").write_bytes(b"not a sound")
    source = recordings(rows, damaged_share=1.0)
    made = [source.batch(number) for number in range(5)]
    assert all(set(one.event_row.tolist()) == set(range(8)) for one in made)
    assert not any("clip-2/0" in one.sample_ids for one in made)
    assert "clip-2/0" in caplog.text
    strict = recordings(rows)
    with pytest.raises(ValueError, match=r"2\.wav"):
        [strict.batch(number) for number in range(20)]


def test_a_manifest_without_recordings_says_so(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps({"id": "a", "instruction": "x", "events": [{"caption": "x", "seconds": 1.0}]}))
    with pytest.raises(ValueError, match="nothing to learn to hear from"):
        recordings(manifest.read(path))
