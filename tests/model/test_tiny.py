"""The miniatures: seeded, harmless to torch's generator, quick, and fitting each other from words to samples."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from audiostory.model import flow, tiny
from audiostory.model.inputs import BridgeTokens, Condition
from audiostory.story import script

PARTS = (
    *(tiny.planner, tiny.bridge, tiny.dit, tiny.codec, tiny.text_encoder, tiny.audio_encoder, tiny.listener_projector),
    *(tiny.audiostory, tiny.text_to_audio, tiny.hearing),
)
RESTING = ("encoder.embed_positions.weight", "audio_encoder.encoder.embed_positions.weight")


@pytest.mark.parametrize("build", PARTS, ids=lambda build: build.__name__)
def test_the_seed_alone_decides_the_weights(build: Callable):
    torch.manual_seed(5)
    first = build(seed=3).state_dict()
    torch.manual_seed(6)
    before = torch.get_rng_state()
    again, other = build(seed=3).state_dict(), build(seed=4).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in first.items())


@pytest.mark.parametrize("build", PARTS, ids=lambda build: build.__name__)
def test_no_weight_is_idle_and_all_learn(build: Callable):
    for name, parameter in build().named_parameters():
        assert parameter.any()
        assert parameter.requires_grad == (
            (name not in RESTING and not name.startswith("text_encoder.")) or (build is tiny.text_to_audio)
        )


def test_everything_builds_in_less_than_a_second():
    tiny.vocabulary()
    start = time.perf_counter()
    for build in PARTS:
        build()
    tiny.story_batch()
    tiny.clip_batch()
    tiny.listening_batch()
    tiny.hearing_batch()
    assert time.perf_counter() - start < 1


def test_the_vocabulary_spells_any_text():
    vocabulary = tiny.vocabulary()
    assert vocabulary.decode(vocabulary.encode("Ünïcode, a bell — 10.5 s\n")) == "Ünïcode, a bell — 10.5 s\n"
    assert len(vocabulary) == 256 + 3 + 612


def test_the_batch_holds_the_stories_it_was_made_from():
    batch = tiny.story_batch()
    for row, (_, storyline) in enumerate(tiny.STORIES):
        reading = script.read(batch.ids[row][batch.attention[row]].tolist(), tiny.vocabulary())
        assert not reading.problems
        assert [event.caption for event in reading.storyline.events] == [event.caption for event in storyline.events]
        mine = batch.event_row == row
        assert batch.semantic_slots[mine].tolist() == [list(slot.semantic) for slot in reading.slots]
        assert batch.residual_slots[mine].tolist() == [list(slot.residual) for slot in reading.slots]
    assert batch.frames.tolist() == [tiny.dit().num_frames(seconds) for seconds in batch.seconds.tolist()]


def test_the_listening_batch_holds_an_answer_a_continuation_and_a_story():
    batch, vocabulary = tiny.listening_batch(), tiny.vocabulary()
    answer, follows, story = (row[own].tolist() for row, own in zip(batch.ids, batch.attention, strict=True))
    assert script.read_answer(answer, vocabulary) == "a dog"
    assert [row.count(vocabulary.listening) for row in (answer, follows, story)] == [
        2 * tiny.NUM_LISTENING, tiny.NUM_LISTENING, 0
    ]  # fmt: skip
    assert [len(script.read(row, vocabulary).storyline.events) for row in (follows, story)] == [2, 1]
    assert batch.event_row.tolist() == [1, 1, 2]
    at_places = batch.ids[batch.audio_row[:, None], batch.audio_slots]
    assert (at_places == vocabulary.listening).all()
    assert tiny.listener_projector()(batch.audio_features).shape == (3, tiny.NUM_LISTENING, tiny.PLANNER_WIDTH)


@torch.no_grad()
@pytest.mark.parametrize("front", ["spectrogram", "waveform"])
def test_the_parts_fit_from_bridge_tokens_to_samples(front: str):
    bridge, dit, codec = tiny.bridge(), tiny.dit(), tiny.codec(front=front)
    assert codec.frame_rate == dit.frame_rate == tiny.FRAME_RATE
    batch = tiny.story_batch()
    states = tiny.planner().states(batch.ids)
    row = batch.event_row[:, None]
    tokens = BridgeTokens(semantic=states[row, batch.semantic_slots], residual=states[row, batch.residual_slots])
    condition = Condition(tokens=bridge(tokens).fused, seconds=batch.seconds)
    latents = flow.euler(lambda x, sigma: dit(x, sigma, condition, batch.frames), batch.latents, steps=2)
    samples = codec.decode(latents)
    assert samples.shape == (3, 1, batch.latents.shape[1] * codec.hop)
    assert samples.isfinite().all()
    assert tiny.text_encoder().unconditional(tiny.NUM_SEMANTIC).shape == bridge.unconditional.shape
