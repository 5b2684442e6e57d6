"""The story walk with tiny components: lengths to the sample, seeds, splitting, batching, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import golden_weights
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from torch.testing import assert_close

from audiostory import pipeline as telling
from audiostory import sound, timeline
from audiostory.model import flow, solvers, tiny
from audiostory.model.dit import guided_velocity
from audiostory.model.inputs import Condition
from audiostory.model.int8 import weights_to_int8
from audiostory.model.listener import AudioEncoder
from audiostory.model.planner import Planner, reciting
from audiostory.pipeline import AudioStoryPipeline, Plan, StoryError
from audiostory.sound import Waveform
from audiostory.story import Event, Instruction, ProblemKind, Storyline, script
from audiostory.story.prompts import reasoning_text
from audiostory.streaming import Part
from audiostory.weights.ours import Settings

RATE = 800  # of the tiny waveform codec
WRITING = Planner.writing


@pytest.fixture(scope="module")
def pipeline() -> AudioStoryPipeline:
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    return AudioStoryPipeline(*parts, Settings(steps=2, guidance=2.0, crossfade_seconds=0.5))


@pytest.fixture(scope="module")
def listening(pipeline) -> AudioStoryPipeline:
    """The same, but that it listens too."""
    return AudioStoryPipeline(
        *(pipeline.planner, pipeline.vocabulary, pipeline.bridge, pipeline.dit, pipeline.codec, pipeline.settings),
        audio_encoder=tiny.audio_encoder(),
        listener_projector=tiny.listener_projector(),
    )


def recording(seconds: float, rate: int = 16000, channels: int = 1, seed: int = 0) -> Waveform:
    samples = 0.1 * np.random.default_rng(seed).standard_normal((channels, round(seconds * rate)))
    return Waveform(samples=samples, sample_rate=rate)


def storyline(*seconds: float) -> Storyline:
    starts = [round(sum(seconds[:index]), 6) for index in range(len(seconds))]
    events = [
        Event(caption=f"sound {index}", seconds=length, start=start)
        for index, (length, start) in enumerate(zip(seconds, starts, strict=True))
    ]
    return Storyline(summary="Sounds.", events=tuple(events))


def plan_of(pipeline: AudioStoryPipeline, *seconds: float) -> Plan:
    return pipeline.plan_from_storyline(storyline(*seconds))


@pytest.fixture
def writes(monkeypatch):
    """Makes the planner write a storyline: it is asked at every id outside the bridge blocks."""

    def force(story: Storyline) -> None:
        vocabulary = tiny.vocabulary()
        prompt = script.prompt(Instruction(text="x"), vocabulary)
        ids = script.write(Instruction(text="x"), story, vocabulary).ids[len(prompt) :]
        recites(monkeypatch, ids)

    return force


def recites(monkeypatch, *answers: Sequence[int]) -> None:
    """Makes the planner write these answers, whatever it is asked."""
    choosers = [reciting(ids, tiny.vocabulary()) for ids in answers]
    writing = partialmethod(Planner.writing, choose=lambda number, scores: choosers[number](scores))
    monkeypatch.setattr(Planner, "writing", writing)


def samples(told) -> np.ndarray:
    return told.story.samples


# Planning


def test_an_instruction_becomes_a_story_of_the_length_asked(pipeline, writes):
    writes(storyline(1.5, 2.5, 1.0))
    told = pipeline("three sounds", total_seconds=7.5, progress=False)
    assert told.story.num_samples == 7.5 * RATE
    assert [event.caption for event in told.storyline.events] == ["sound 0", "sound 1", "sound 2"]
    assert math.fsum(event.seconds for event in told.storyline.events) == pytest.approx(7.5, abs=1e-6)
    assert [problem.kind for problem in told.problems] == [ProblemKind.TOTAL, ProblemKind.TOO_LONG]


def test_without_a_length_the_planner_decides(pipeline, writes):
    writes(storyline(1.5, 1.2))
    assert pipeline("two sounds", progress=False).story.num_samples == 2.7 * RATE


def test_a_plan_longer_than_a_story_may_be_is_scaled(pipeline, writes):
    writes(storyline(500.0, 500.0))
    assert pipeline.plan("x", progress=False).storyline.total_seconds == pytest.approx(600)


def test_a_given_storyline_gives_the_plan_that_writing_it_gives(pipeline, writes):
    writes(storyline(1.5, 2.5))
    instruction = Instruction(text="two sounds", total_seconds=4.0)
    written, given = pipeline.plan(instruction), pipeline.plan_from_storyline(storyline(1.5, 2.5), instruction)
    assert_close(written.bridge_tokens.semantic, given.bridge_tokens.semantic, rtol=0, atol=1e-5)
    assert_close(written.bridge_tokens.residual, given.bridge_tokens.residual, rtol=0, atol=1e-5)
    assert [event.seconds for event in written.storyline.events] == [event.seconds for event in given.storyline.events]


def test_a_script_that_breaks_off_keeps_its_complete_events(pipeline, writes):
    writes(storyline(1.5, 2.5))
    ids = script.write(Instruction(text="x"), storyline(1.5, 2.5), pipeline.vocabulary).ids
    until_second_event = (
        len(ids)
        - ids[::-1].index(pipeline.vocabulary.gen)
        - len(script.prompt(Instruction(text="x"), pipeline.vocabulary))
    )
    plan = pipeline.plan(Instruction(text="x", total_seconds=3.0), max_new_tokens=until_second_event, progress=False)
    assert [event.seconds for event in plan.storyline.events] == [3.0]
    assert len(plan.bridge_tokens.semantic) == 1
    assert "before its end" in plan.problems[0].message


def test_a_planner_that_writes_nothing_of_use_says_what_to_do(pipeline):
    with pytest.raises(StoryError, match=r"no complete event: .*; raise max_new_tokens"):
        pipeline("a bell", total_seconds=3, max_new_tokens=30, progress=False)


# Rendering


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6).filter(lambda tenths: sum(tenths) >= 10), st.floats(0, 2))
def test_a_story_lasts_the_sum_of_its_events_to_the_sample(pipeline, tenths, crossfade_seconds):
    plan = plan_of(pipeline, *(length / 10 for length in tenths))
    told = pipeline.render(plan, steps=1, guidance=1, crossfade_seconds=crossfade_seconds, progress=False)
    assert told.story.num_samples == round(sum(tenths) / 10 * RATE)
    assert len(told.clips) == len(told.times) == len(tenths)
    assert told.times[-1][1] == pytest.approx(sum(tenths) / 10)


def test_a_seed_tells_the_same_story_and_leaves_the_global_generator_alone(pipeline):
    plan, before = plan_of(pipeline, 1.5, 2.0), torch.get_rng_state()
    first, again, other = (pipeline.render(plan, seed=seed, progress=False) for seed in (7, 7, 8))
    assert (samples(first) == samples(again)).all()
    assert not np.allclose(samples(first), samples(other))
    assert (torch.get_rng_state() == before).all()


def test_events_of_equal_condition_differ_unless_they_share_their_noise(pipeline):
    plan = plan_of(pipeline, 1.5, 1.5, 1.5)
    same = replace(
        plan.bridge_tokens,
        **{name: getattr(plan.bridge_tokens, name)[:1].expand(3, -1, -1) for name in ("semantic", "residual")},
    )
    own, shared = (
        pipeline.render(replace(plan, bridge_tokens=same), as_released=shared, progress=False).clips[:2]
        for shared in (False, True)
    )
    assert not np.allclose(own[0].samples, own[1].samples, atol=1e-3)
    np.testing.assert_allclose(shared[0].samples, shared[1].samples, atol=1e-6)


def test_a_long_event_is_made_of_several_clips_and_leaves_the_others_their_noise(pipeline):
    plan = plan_of(pipeline, 2.0, 3.0, 2.0)
    long_first = replace(plan, storyline=storyline(9.0, 3.0, 2.0))
    told, long_told = (pipeline.render(plan, progress=False) for plan in (plan, long_first))
    assert long_told.story.num_samples == 14.0 * RATE
    assert [(problem.kind, problem.event) for problem in long_told.problems] == [(ProblemKind.TOO_LONG, 1)]
    assert "3 clips" in long_told.problems[0].message
    np.testing.assert_allclose(told.clips[1].samples, long_told.clips[1].samples, atol=1e-5)


def test_denoising_in_many_batches_gives_the_same_story(pipeline, monkeypatch):
    plan = plan_of(pipeline, 1.1, 2.7, 9.0, 0.4, 3.0)
    at_once = pipeline.render(plan, progress=False)
    for max_batch_frames in (1, 100, 200):
        monkeypatch.setattr(AudioStoryPipeline, "max_batch_frames", max_batch_frames)
        np.testing.assert_allclose(samples(pipeline.render(plan, progress=False)), samples(at_once), atol=1e-5)


def test_the_story_is_its_clips_joined(pipeline):
    told = pipeline.render(plan_of(pipeline, 1.5, 9.0, 0.3, 2.0), progress=False)
    joined = timeline.join(told.clips, [timeline.place(start, RATE) for start, _ in told.times])
    assert (joined.samples == samples(told)).all()
    fades = [clip.num_samples / RATE - (end - start) for clip, (start, end) in zip(told.clips, told.times, strict=True)]
    assert fades == pytest.approx([0.5, 0.15, 0.15, 0])


@pytest.mark.parametrize("sample_rate", [400, 441, 1600])
def test_a_story_at_another_rate_lasts_as_long(pipeline, sample_rate):
    told = pipeline.render(plan_of(pipeline, 1.5, 2.0, 1.3), progress=False)
    resampled = told.resample(sample_rate)
    assert resampled.story.sample_rate == sample_rate
    assert resampled.story.num_samples == round(4.8 * sample_rate)
    assert told.resample(RATE).story.samples.tobytes() == samples(told).tobytes()


@torch.no_grad()
@pytest.mark.parametrize(
    "seconds", [(1.2, 0.9, 1.5), (0.5, 1.35, 0.2, 0.8), (0.7, 1.9, 0.25), (2.95, 1.0), (4.0, 1.0), (1.0, 28.0)]
)
def test_as_released_follows_the_releases_arithmetic_clip_by_clip(seconds):
    """SPEC 7 and 8: one noise, one clip at a time, a whole decode, int(duration * rate) samples, strict fades."""
    read, fade, rate = golden_weights.model(), 0.4, 500
    pipeline = AudioStoryPipeline(read.planner, read.vocabulary, read.bridge, read.dit, read.codec, read.settings)
    plan = pipeline.plan_from_storyline(storyline(*(round(length, 1) for length in seconds)))
    events = tuple(replace(e, seconds=s) for e, s in zip(plan.storyline.events, seconds, strict=True))
    plan = replace(plan, storyline=replace(plan.storyline, events=events))
    told = pipeline.render(plan, seed=9, steps=2, crossfade_seconds=fade, as_released=True, progress=False)
    told = told.resample(rate)

    clips = []
    for index, (fused, parsed) in enumerate(zip(read.bridge(plan.bridge_tokens).fused, seconds, strict=True)):
        duration = parsed + (fade if index < len(seconds) - 1 else 0)
        condition = Condition(tokens=fused[None], seconds=torch.tensor([duration]))
        velocity = guided_velocity(read.dit, condition, read.bridge.unconditional, 4.0)
        noise = torch.randn(1, 40, 64, generator=torch.Generator().manual_seed(0))
        wave = read.codec.decode(flow.euler(velocity, noise, 2))[0, :, : int(duration * 400)]
        clips.append(sound.resample(Waveform(samples=wave.numpy(), sample_rate=400), rate))
    expected = sound.crossfade(clips, fade)
    np.testing.assert_allclose(told.story.samples, expected.samples, rtol=0, atol=5e-5)


def test_as_released_takes_any_fade_and_the_durations_as_written(pipeline, writes):
    writes(storyline(1.5, 1.2))
    told = pipeline("two sounds", total_seconds=7.5, crossfade_seconds=3.5, as_released=True, progress=False)
    assert [event.seconds for event in told.storyline.events] == [1.5, 1.2]
    assert told.rendering.crossfade_seconds == 3.5


def latents_of(pipeline: AudioStoryPipeline, plan: Plan, **choices) -> torch.Tensor:
    found: list[torch.Tensor] = []
    told = pipeline.render(plan, progress=False, on_latents=found.extend, **choices)
    assert len(found) == len(told.clips)
    return torch.cat(found)  # [T Z] of all clips


@pytest.mark.parametrize("solver", solvers.EVALUATIONS)
def test_every_solver_comes_to_the_same_latents_by_many_steps(pipeline, solver):
    plan = plan_of(pipeline, 1.5, 2.0)
    end = latents_of(pipeline, plan, steps=128, solver="euler")
    few, many = (
        (latents_of(pipeline, plan, steps=steps, solver=solver) - end).square().mean().sqrt() for steps in (2, 64)
    )
    assert many < few / 10


def test_a_model_may_have_a_solver_of_its_own_but_not_for_the_released_way(pipeline):
    parts = (pipeline.planner, pipeline.vocabulary, pipeline.bridge, pipeline.dit, pipeline.codec)
    own = AudioStoryPipeline(*parts, replace(pipeline.settings, solver="ab2"))
    plan = plan_of(own, 1.5, 2.0)
    told = own.render(plan, progress=False)
    assert told.rendering.solver == "ab2"
    assert (samples(told) == samples(pipeline.render(plan, solver="ab2", progress=False))).all()
    assert own.render(plan, solver="heun", progress=False).rendering.solver == "heun"
    assert own.render(plan, as_released=True, progress=False).rendering.solver == "euler"
    with pytest.raises(ValueError, match="the release solves by euler, not heun"):
        own.render(plan, as_released=True, solver="heun")


def test_half_precision_tells_nearly_the_same_story():
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    whole = AudioStoryPipeline(*parts, Settings(steps=2, crossfade_seconds=0.5))
    plan = plan_of(whole, 1.5, 2.0)
    expected = samples(whole.render(plan, progress=False))
    half = samples(whole.to(torch.bfloat16).render(plan, progress=False))
    assert half.dtype == np.float32
    assert np.abs(half - expected).mean() < 0.05 * np.abs(expected).mean()


def test_offloading_moves_every_part_and_tells_the_same_story(pipeline, writes):
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    offloaded = AudioStoryPipeline(*parts, pipeline.settings)
    offloaded.enable_model_cpu_offload(device="cpu")  # onto the CPU itself: the hooks run all the same
    moved = []
    for name in ("planner", "bridge", "dit", "codec"):
        hook = getattr(offloaded, name)._hf_hook
        hook.pre_forward = _noted(hook.pre_forward, name, moved)
    writes(storyline(1.5, 1.2))
    told = offloaded("two sounds", progress=False)
    assert list(dict.fromkeys(moved)) == ["planner", "bridge", "dit", "codec"]
    writes(storyline(1.5, 1.2))
    assert (samples(told) == samples(pipeline("two sounds", progress=False))).all()


def _noted(function, name, notes):
    def noted(*args, **kwargs):
        notes.append(name)
        return function(*args, **kwargs)

    return noted


# Listening


@pytest.fixture
def prompts(monkeypatch) -> list[list[int]]:
    """What the planner was given to go on from; it writes as before."""
    given: list[list[int]] = []
    write = Planner.write_many

    def noted(planner: Planner, prompts, vocabulary, **options):
        given.extend(list(ids) for ids in prompts)
        return write(planner, prompts, vocabulary, **options)

    monkeypatch.setattr(Planner, "write_many", noted)
    return given


def answers(monkeypatch, text: str) -> None:
    vocabulary = tiny.vocabulary()
    ids = [*vocabulary.encode(text), vocabulary.im_end]
    recites(monkeypatch, ids)


def test_a_recording_is_described_in_words(listening, monkeypatch):
    answers(monkeypatch, "a dog, then rain")
    assert listening.describe(recording(1.5), "what is heard?", progress=False) == "a dog, then rain"


def test_a_question_stands_after_its_recording_in_the_prompt(listening, prompts):
    listening.describe(recording(2.5), " what is heard? ", max_new_tokens=3, progress=False)
    vocabulary = tiny.vocabulary()
    expected = script.question(Instruction(text="what is heard?"), vocabulary, 3 * tiny.NUM_LISTENING)
    assert prompts == [expected]


def test_many_questions_about_a_recording_are_asked_as_each_alone_and_it_is_heard_once(listening, monkeypatch):
    vocabulary = tiny.vocabulary()
    heard: list[int] = []
    asked: list[tuple[list[int], torch.Tensor]] = []
    features, write = AudioEncoder.features, Planner.write_many

    def noted(encoder: AudioEncoder, samples, num_tokens):
        heard.append(len(samples))
        return features(encoder, samples, num_tokens)

    def answering(planner: Planner, prompts, vocabulary, *, heard, **options):
        asked.extend(zip(map(list, prompts), heard, strict=True))
        answers = [[*vocabulary.encode(f"answer {number}"), vocabulary.im_end] for number in (1, 2, 3)]
        choosers = [reciting(ids, vocabulary) for ids in answers]
        return write(
            planner, prompts, vocabulary, heard=heard, choose=lambda row, scores: choosers[row](scores), **options
        )

    monkeypatch.setattr(AudioEncoder, "features", noted)
    monkeypatch.setattr(Planner, "write_many", answering)
    questions = ["which sounds?", " is there a dog? ", "how many of them?"]
    answers = listening.describe(recording(1.5), questions, progress=False)
    assert answers == ["answer 1", "answer 2", "answer 3"]
    assert len(heard) == 1
    assert [ids for ids, _ in asked] == [
        script.question(Instruction(text=text.strip()), vocabulary, 2 * tiny.NUM_LISTENING) for text in questions
    ]
    listening.describe(recording(1.5), "which sounds?", progress=False)
    assert all(torch.equal(tokens, asked[-1][1]) for _, tokens in asked)


def test_one_question_too_long_is_refused_before_any_is_answered(listening, monkeypatch):
    monkeypatch.setattr(Planner, "write_many", lambda *_, **__: pytest.fail("answered all the same"))
    with pytest.raises(ValueError, match="shorten it"):
        listening.describe(recording(1.5), ["which sounds?", "rain " * 2000], progress=False)


def test_the_planner_is_given_what_the_listener_hears(listening, monkeypatch):
    given: list[torch.Tensor] = []
    write = Planner.write_many

    def noted(planner: Planner, prompts, vocabulary, *, heard, **options):
        given.extend(heard)
        return write(planner, prompts, vocabulary, heard=heard, **options)

    monkeypatch.setattr(Planner, "write_many", noted)
    for seed in (0, 0, 1):
        listening.describe(recording(1.5, seed=seed), "x", max_new_tokens=2, progress=False)
    features = listening.audio_encoder.features(recording(1.5).samples[0], tiny.NUM_LISTENING)
    assert_close(given[0], listening.listener_projector(features).flatten(0, 1))
    assert given[0].shape == (2 * tiny.NUM_LISTENING, tiny.PLANNER_WIDTH)
    assert torch.equal(given[0], given[1])
    assert not torch.equal(given[0], given[2])


def test_any_format_is_heard_as_its_mono_sound_at_16_khz(listening, monkeypatch, tmp_path):
    heard: list[np.ndarray] = []
    features = AudioEncoder.features

    def noted(encoder: AudioEncoder, samples, num_tokens):
        heard.append(samples)
        return features(encoder, samples, num_tokens)

    monkeypatch.setattr(AudioEncoder, "features", noted)
    stereo = recording(1.2, rate=44100, channels=2)
    sound.write(tmp_path / "stereo.wav", stereo)
    for audio in (stereo, tmp_path / "stereo.wav", str(tmp_path / "stereo.wav")):
        listening.describe(audio, "x", max_new_tokens=1, progress=False)
    mono = sound.resample(stereo, 16000).samples.mean(0)
    assert all(np.allclose(one, mono, atol=1e-6) for one in heard)
    assert len(heard) == 3


def test_a_story_goes_on_from_a_recording(listening, writes, prompts):
    writes(storyline(1.5, 1.2))
    told = listening.continue_story(recording(2.5), "and then?", total_seconds=3.0, seed=4, progress=False)
    assert [event.caption for event in told.storyline.events] == ["sound 0", "sound 1"]
    assert told.story.num_samples == 3 * RATE
    assert told.rendering.seed == 4


def test_a_continuation_is_asked_for_with_its_recording(listening, prompts):
    with pytest.raises(StoryError):
        listening.continue_story(
            recording(1.0), "and then?", total_seconds=3.0, max_new_tokens=2, guidance=1.0, progress=False
        )
    instruction = Instruction(text="and then?", total_seconds=3.0)
    assert prompts == [script.prompt(instruction, tiny.vocabulary(), num_listening=tiny.NUM_LISTENING)]


def test_an_instructions_own_recording_is_heard(listening, prompts, tmp_path):
    sound.write(tmp_path / "opening.wav", recording(1.0))
    instruction = Instruction(text="and then?", audio=tmp_path / "opening.wav")
    with pytest.raises(StoryError):
        listening(instruction, max_new_tokens=2, progress=False)
    assert prompts[0].count(tiny.vocabulary().listening) == tiny.NUM_LISTENING


def test_a_given_continuation_is_the_plan_that_writing_it_gives(listening, writes):
    story, opening = storyline(1.5, 1.2), recording(2.5)
    asked = Instruction(text="and then?", total_seconds=2.7)
    writes(story)
    written = listening.plan(asked, audio=opening, progress=False)
    given = listening.plan_from_storyline(story, asked, opening)
    assert_close(given.bridge_tokens.semantic, written.bridge_tokens.semantic, rtol=1e-4, atol=1e-5)
    assert_close(given.bridge_tokens.residual, written.bridge_tokens.residual, rtol=1e-4, atol=1e-5)
    deaf = listening.plan_from_storyline(story, asked)
    assert (given.bridge_tokens.semantic - deaf.bridge_tokens.semantic).abs().max() > 1e-4


def test_listening_leaves_stories_from_words_as_they_are(pipeline, listening):
    told = [one.render(plan_of(one, 1.5), progress=False) for one in (pipeline, listening)]
    assert (samples(told[0]) == samples(told[1])).all()


@pytest.mark.parametrize(("rate", "channels", "seconds"), [(16000, 1, 2.5), (44100, 2, 1.2), (800, 1, 0.3)])
def test_opening_and_continuation_are_one_cross_faded_sound(listening, rate, channels, seconds):
    told = listening.render(plan_of(listening, 1.5, 1.0), progress=False)
    opening = recording(seconds, rate, channels)
    whole = told.after(opening)
    fade = int(min(0.5, seconds) * RATE)
    assert (whole.sample_rate, whole.num_channels) == (RATE, 1)
    assert whole.num_samples == math.ceil(seconds * RATE) + told.story.num_samples - fade
    begins = whole.num_samples - told.story.num_samples
    before = sound.resample(opening, RATE).samples.mean(0)
    assert np.allclose(whole.samples[0, :begins], before[:begins], atol=1e-6)
    assert np.allclose(whole.samples[0, begins + fade :], samples(told)[0, fade:], atol=1e-6)


def test_a_mono_opening_takes_on_the_channels_of_its_continuation(listening):
    told = listening.render(plan_of(listening, 1.5), progress=False)
    stereo = replace(told, story=Waveform(samples=np.repeat(samples(told), 2, axis=0), sample_rate=RATE))
    whole = stereo.after(recording(1.0))
    assert whole.num_channels == 2
    assert (whole.samples[0] == whole.samples[1]).all()


@pytest.mark.parametrize("part", ["audio_encoder", "listener_projector"])
def test_a_model_that_cannot_listen_says_what_it_lacks(pipeline, part):
    parts = {"audio_encoder": tiny.audio_encoder(), "listener_projector": tiny.listener_projector()}
    del parts[part]
    common = (pipeline.planner, pipeline.vocabulary, pipeline.bridge, pipeline.dit, pipeline.codec)
    half = AudioStoryPipeline(*common, **parts)
    assert half.max_heard_seconds == 0
    for deaf, lacking in ((half, part), (pipeline, "audio_encoder and no listener_projector")):
        with pytest.raises(ValueError, match=f"this model cannot listen: it has no {lacking};"):
            deaf.describe(recording(1.0), progress=False)
        with pytest.raises(ValueError, match="cannot listen"):
            deaf.continue_story(recording(1.0), "and then?", progress=False)


def test_parts_of_another_listener_are_refused(pipeline):
    common = (pipeline.planner, pipeline.vocabulary, pipeline.bridge, pipeline.dit, pipeline.codec)
    projector = type(tiny.listener_projector())
    narrow = projector(audio_width=8, planner_width=tiny.PLANNER_WIDTH, num_tokens=2)
    with pytest.raises(ValueError, match="audio encoder width and listener: 16 and 8"):
        AudioStoryPipeline(*common, audio_encoder=tiny.audio_encoder(), listener_projector=narrow)
    wide = projector(audio_width=16, planner_width=7, num_tokens=2)
    with pytest.raises(ValueError, match="planner width and listener: 32 and 7"):
        AudioStoryPipeline(*common, listener_projector=wide)


def test_a_recording_of_any_length_up_to_the_limit_is_heard(listening, monkeypatch):
    monkeypatch.setattr(listening.planner.qwen.config, "max_position_embeddings", 800)
    assert listening.max_heard_seconds == (400 - 256) // tiny.NUM_LISTENING * tiny.WINDOW_SECONDS == 36
    assert isinstance(listening.describe(recording(36.0), max_new_tokens=1, progress=False), str)
    message = r"lasts 36\.1 s and this model hears at most 36 s \(4 tokens for every 1 s, .* room for 144\)"
    monkeypatch.setattr(AudioEncoder, "features", lambda *_: pytest.fail("heard all the same"))
    with pytest.raises(ValueError, match=message):
        listening.describe(recording(36.1), progress=False)


@pytest.mark.parametrize(
    ("audio", "wrong", "message"),
    [
        (Waveform(samples=np.zeros((1, 0), np.float32), sample_rate=16000), {}, "the recording is empty"),
        (Waveform(samples=np.full((1, 9), np.nan), sample_rate=16000), {}, "samples that are not numbers"),
        ("nowhere.wav", {}, "no audio file at nowhere.wav"),
        (recording(1.0), {"max_new_tokens": 0}, "max_new_tokens must be"),
        (recording(1.0), {"instruction": " "}, "instruction is empty"),
        (recording(1.0), {"instruction": "<video_padding>"}, "special token <video_padding>"),
        (recording(1.0), {"instruction": "rain " * 2000}, "shorten it"),
        (recording(1.0), {"steps": 0}, "steps must be"),
        (recording(1.0), {"total_seconds": -1.0}, "1 to 600 seconds"),
    ],
)
def test_a_recording_or_a_wish_that_cannot_be_meant_is_refused_before_listening(
    listening, monkeypatch, audio, wrong, message
):
    monkeypatch.setattr(AudioEncoder, "features", lambda *_: pytest.fail("heard all the same"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        listening.continue_story(audio, **{"instruction": "and then?", "progress": False, **wrong})


@pytest.mark.parametrize("question", ["", "what is <|gen|>?"])
def test_a_question_that_cannot_be_asked_is_refused_before_listening(listening, monkeypatch, question):
    monkeypatch.setattr(AudioEncoder, "features", lambda *_: pytest.fail("heard all the same"))
    with pytest.raises(ValueError, match=r"question is empty|special token"):
        listening.describe(recording(1.0), question, progress=False)


def test_offloading_moves_the_listener_too(listening, writes):
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    offloaded = AudioStoryPipeline(*parts, listening.settings, tiny.audio_encoder(), tiny.listener_projector())
    offloaded.enable_model_cpu_offload(device="cpu")
    moved = []
    for name in ("audio_encoder", "listener_projector", "planner", "bridge", "dit", "codec"):
        hook = getattr(offloaded, name)._hf_hook
        hook.pre_forward = _noted(hook.pre_forward, name, moved)
    writes(storyline(1.5, 1.2))
    told = offloaded.continue_story(recording(1.0), "x", progress=False)
    assert list(dict.fromkeys(moved)) == [
        "audio_encoder", "listener_projector", "planner", "bridge", "dit", "codec"
    ]  # fmt: skip
    writes(storyline(1.5, 1.2))
    assert (samples(told) == samples(listening.continue_story(recording(1.0), "x", progress=False))).all()


# Many stories


def answer_of(story: Storyline) -> list[int]:
    ids = script.write(Instruction(text="x"), story, tiny.vocabulary()).ids
    return list(ids[len(script.prompt(Instruction(text="x"), tiny.vocabulary())) :])


@pytest.mark.parametrize("solver", [None, "ab2"])
def test_stories_told_together_are_those_told_alone(pipeline, monkeypatch, solver):
    stories = [storyline(1.5, 2.5, 1.0), storyline(0.4), storyline(9.0, 0.7)]
    instructions = ["three sounds", Instruction(text="a sound", total_seconds=1.2), "a long sound, then another"]
    with monkeypatch.context() as patch:
        recites(patch, *map(answer_of, stories))
        together = list(pipeline.tell_many(instructions, seeds=[3, 4, 3], solver=solver, progress=False))
    for told, instruction, story, seed in zip(together, instructions, stories, [3, 4, 3], strict=True):
        with monkeypatch.context() as patch:
            recites(patch, answer_of(story))
            alone = pipeline(instruction, seed=seed, solver=solver, progress=False)
        assert (told.storyline, told.rendering, told.times) == (alone.storyline, alone.rendering, alone.times)
        assert told.problems == alone.problems
        np.testing.assert_allclose(samples(told), samples(alone), rtol=0, atol=1e-5)
        assert [clip.num_samples for clip in told.clips] == [clip.num_samples for clip in alone.clips]


def test_many_are_planned_some_at_a_time_as_each_alone(pipeline, monkeypatch):
    stories, texts = [storyline(1.5, 2.5), storyline(0.4), storyline(2.0)], ["two sounds", "a sound", "another"]
    monkeypatch.setattr(pipeline, "max_batch_scripts", 3)
    planning = pipeline.plan_many([texts[0], "", *texts[1:]], progress=False)
    with monkeypatch.context() as patch:
        recites(patch, *map(answer_of, stories[:2]))
        plans = [next(planning) for _ in range(3)]
    with monkeypatch.context() as patch:
        recites(patch, answer_of(stories[2]))
        plans += planning
    assert isinstance(plans.pop(1), StoryError)
    for planned, text, story in zip(plans, texts, stories, strict=True):
        with monkeypatch.context() as patch:
            recites(patch, answer_of(story))
            alone = pipeline.plan(text, progress=False)
        assert (planned.storyline, planned.problems) == (alone.storyline, alone.problems)
        torch.testing.assert_close(planned.bridge_tokens.semantic, alone.bridge_tokens.semantic, rtol=0, atol=1e-5)


def test_stories_freely_planned_together_have_the_plans_of_those_planned_alone(pipeline):
    """A network of random weights writes no story, but what it writes, and so what is wrong with it, is the same."""
    instructions = ["a bell", "rain, then a dog that barks", Instruction(text="wind", total_seconds=20.0)]
    together = list(pipeline.tell_many(instructions, seeds=[0, 0, 0], max_new_tokens=30, progress=False))
    for told, instruction in zip(together, instructions, strict=True):
        with pytest.raises(StoryError) as alone:
            pipeline(instruction, max_new_tokens=30, progress=False)
        assert isinstance(told, StoryError)
        assert str(told) == str(alone.value)


def test_a_story_that_cannot_be_told_stops_no_other(pipeline, monkeypatch):
    nothing = [*tiny.vocabulary().encode("no events"), tiny.vocabulary().im_end]
    recites(monkeypatch, answer_of(storyline(1.5)), nothing, answer_of(storyline(1.0)))
    instructions = [
        *("a bell", " ", Instruction(text="x", total_seconds=1e6), "rain"),
        *(Instruction(text="and then?", audio=Path("nowhere.wav")), "a dog"),
    ]
    told = list(pipeline.tell_many(instructions, seeds=range(6), progress=False))
    lengths = [None if isinstance(one, StoryError) else one.story.num_samples / RATE for one in told]
    assert lengths == [1.5, None, None, None, None, 1.0]
    reasons = ("instruction is empty", "1 to 600 seconds", "no complete event", "cannot listen")
    assert all(reason in str(one) for reason, one in zip(reasons, told[1:5], strict=True))


def test_what_memory_does_not_hold_together_is_written_and_denoised_in_parts(pipeline, monkeypatch):
    stories, seeds = [storyline(1.5, 2.5, 1.0), storyline(0.4), storyline(2.0, 0.7)], [3, 4, 5]
    recites(monkeypatch, *map(answer_of, stories))
    whole = list(pipeline.tell_many(["a", "b", "c"], seeds=seeds, progress=False))
    asked = {"clips": [], "scripts": []}
    monkeypatch.setattr(telling, "denoise", _bounded(telling.denoise, asked["clips"], 1))
    monkeypatch.setattr(Planner, "write_many", _bounded(Planner.write_many, asked["scripts"], 1))
    turns = iter(map(answer_of, stories))
    monkeypatch.setattr(Planner, "writing", lambda *args, **options: _recited(next(turns), *args, **options))
    parts = list(pipeline.tell_many(["a", "b", "c"], seeds=seeds, progress=False))
    assert asked["scripts"] == [3, 1, 2, 1, 1]
    assert asked["clips"].count(1) == 6
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_allclose(samples(one), samples(other), rtol=0, atol=1e-5)


def test_a_story_that_memory_does_not_hold_alone_stops_no_other(pipeline, monkeypatch):
    recites(monkeypatch, answer_of(storyline(0.4)), answer_of(storyline(3.0)))
    decode, most = type(pipeline.codec).decode, 30

    def small(self, latents, **options):
        if latents.shape[1] > most:
            raise torch.OutOfMemoryError
        return decode(self, latents, **options)

    monkeypatch.setattr(type(pipeline.codec), "decode", small)
    one, other = pipeline.tell_many(["a", "b"], seeds=[0, 0], progress=False)
    assert one.story.num_samples == 0.4 * RATE
    assert isinstance(other, StoryError)
    assert "lower max_decode_frames" in str(other)
    assert isinstance(other.__cause__, torch.OutOfMemoryError)


def _bounded(work, sizes: list[int], most: int):
    """`work`, for which memory holds so many of the items in its second argument."""

    def bounded(part, items, *rest, **options):
        sizes.append(len(items))
        if len(items) > most:
            raise torch.OutOfMemoryError
        return work(part, items, *rest, **options)

    return bounded


def _recited(answer: Sequence[int], *args, **options):
    chooser = reciting(answer, tiny.vocabulary())
    return WRITING(*args, **options, choose=lambda number, scores: chooser(scores))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_planner_whose_scores_are_no_numbers_is_a_damaged_model_and_no_bad_instruction(dtype):
    planner = tiny.planner().to(dtype)
    parts = (planner, tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    damaged = AudioStoryPipeline(*parts, Settings(steps=2))
    with torch.no_grad():
        planner.qwen.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    to_do = "use float32 or bfloat16" if dtype == torch.float16 else "the model is damaged: copy its folder again"
    for tell in (
        lambda: damaged("a bell", progress=False),
        lambda: list(damaged.tell_many(["a bell", "rain"], seeds=[0, 0], progress=False)),
        lambda: list(damaged.stream("a bell")),
    ):
        with pytest.raises(ValueError, match=to_do) as raised:
            tell()
        assert not isinstance(raised.value, StoryError)


def test_stories_are_yielded_before_later_ones_are_planned(pipeline, prompts, monkeypatch):
    monkeypatch.setattr(AudioStoryPipeline, "max_batch_scripts", 2)
    told = pipeline.tell_many(["a", "b", "c"], seeds=[0, 0, 0], max_new_tokens=2, progress=False)
    assert len(prompts) == 0
    next(told)
    assert len(prompts) == 2
    assert len(list(told)) == 2
    assert len(prompts) == 3


def test_stories_of_an_offloaded_model_are_told_together(pipeline, monkeypatch):
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    offloaded = AudioStoryPipeline(*parts, pipeline.settings)
    offloaded.enable_model_cpu_offload(device="cpu")
    recites(monkeypatch, answer_of(storyline(1.5)))
    (told,) = offloaded.tell_many(["x"], seeds=[0], progress=False)
    recites(monkeypatch, answer_of(storyline(1.5)))
    assert (samples(told) == samples(pipeline("x", progress=False))).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": [0]}, "2 instructions and 1 seeds"),
        ({"seeds": [0, -1]}, "seed must be"),
        ({"steps": 0}, "steps must be"),
        ({"guidance": 0.5}, "guidance must be 1"),
        ({"crossfade_seconds": 3.0}, "cross-fade must last"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
    ],
)
def test_choices_for_many_stories_that_cannot_be_meant_are_refused_at_once(pipeline, wrong, message):
    with pytest.raises(ValueError, match=message):
        pipeline.tell_many(["a", "b"], **{"seeds": [0, 1], **wrong})


# Streaming


def streamed(pipeline, **choices) -> list[Part]:
    return list(pipeline.stream("sounds", **choices))


@pytest.mark.parametrize("total_seconds", [None, 5.0, 14.3])
@pytest.mark.parametrize("seconds", [(1.5, 2.5, 1.0), (0.3, 9.0, 0.7), (2.0,)])
def test_the_parts_of_a_stream_are_the_story_told_at_once(pipeline, monkeypatch, seconds, total_seconds):
    recites(monkeypatch, answer_of(storyline(*seconds)))
    parts = streamed(pipeline, total_seconds=total_seconds, seed=5)
    recites(monkeypatch, answer_of(storyline(*seconds)))
    told = pipeline("sounds", total_seconds=total_seconds, seed=5, progress=False)
    heard = np.concatenate([part.sound.samples for part in parts], axis=1)
    np.testing.assert_allclose(heard, samples(told), rtol=0, atol=1e-5)
    assert [part.event for part in parts] == list(told.storyline.events)
    assert [(part.event.start, part.sound.num_samples) for part in parts] == [
        (event.start, timeline.span(start, end, RATE))
        for event, (start, end) in zip(told.storyline.events, told.times, strict=True)
    ]


def test_a_stream_is_solved_as_the_story_told_at_once(pipeline, monkeypatch):
    heard = {}
    for solver in ("euler", "heun"):
        recites(monkeypatch, answer_of(storyline(1.5, 1.0)))
        heard[solver] = np.concatenate([part.sound.samples for part in streamed(pipeline, solver=solver)], axis=1)
    recites(monkeypatch, answer_of(storyline(1.5, 1.0)))
    told = pipeline("sounds", solver="heun", progress=False)
    np.testing.assert_allclose(heard["heun"], samples(told), rtol=0, atol=1e-5)
    assert not np.allclose(heard["euler"], heard["heun"], atol=1e-3)


def test_a_part_is_heard_as_soon_as_its_tokens_are_written(pipeline, monkeypatch):
    recites(monkeypatch, answer_of(storyline(1.0, 1.0, 1.0)))
    pieces, writing = [], Planner.writing
    monkeypatch.setattr(
        Planner, "writing", lambda *args, **options: (pieces.append(p) or p for p in writing(*args, **options))
    )
    closing = tiny.vocabulary().residual_close
    for number, _ in enumerate(pipeline.stream("sounds"), 1):
        assert pieces[-1].ids[-1] == closing
        assert sum(piece.ids[-1] == closing for piece in pieces) == number
    assert pieces[-1].ids == (tiny.vocabulary().im_end,)


@pytest.mark.parametrize("closed_after", ["</t5>", "</aud>", "<|/gen|>", None])
@pytest.mark.parametrize("number", [0, 1])
def test_a_stream_of_a_reasoning_that_ends_late_or_never_is_the_story_told_at_once(
    pipeline, monkeypatch, closed_after, number
):
    vocabulary, answer = tiny.vocabulary(), answer_of(storyline(1.5, 1.0))
    answer.remove(vocabulary.end_think)
    if closed_after is not None:
        places = [i for i, token in enumerate(answer) if vocabulary.name(token) == closed_after]
        answer.insert(places[number] + 1, vocabulary.end_think)
    _streamed_is_told(pipeline, monkeypatch, answer)


@pytest.mark.parametrize("number", [0, 1])
def test_a_stream_of_an_event_that_is_closed_twice_is_the_story_told_at_once(pipeline, monkeypatch, number):
    vocabulary, answer = tiny.vocabulary(), answer_of(storyline(1.5, 1.0))
    places = [i for i, token in enumerate(answer) if token == vocabulary.gen]
    answer.insert(places[number] + 1, vocabulary.end_gen)
    _streamed_is_told(pipeline, monkeypatch, answer)


def _streamed_is_told(pipeline, monkeypatch, answer: list[int]) -> None:
    recites(monkeypatch, answer)
    parts = streamed(pipeline)
    recites(monkeypatch, answer)
    told = pipeline("sounds", progress=False)
    assert [part.event for part in parts] == list(told.storyline.events)
    heard = np.concatenate([part.sound.samples for part in parts], axis=1)
    np.testing.assert_allclose(heard, samples(told), rtol=0, atol=1e-5)


def planned_otherwise(reasoned: Storyline | str, written: Storyline) -> list[int]:
    reasoning = reasoned if isinstance(reasoned, str) else reasoning_text(reasoned)
    return answer_of(replace(written, reasoning=reasoning))


def test_an_event_written_otherwise_than_planned_keeps_its_planned_time_and_is_a_problem(pipeline, monkeypatch):
    recites(monkeypatch, planned_otherwise(storyline(1.5, 1.0, 1.0), storyline(1.5, 2.0, 1.0)))
    parts = streamed(pipeline)
    assert [part.event.seconds for part in parts] == [1.5, 1.0, 1.0]
    assert [part.problems for part in parts[::2]] == [(), ()]
    assert "event 2 was written with 2 s; it keeps the 1 s" in parts[1].problems[0].message


def test_after_an_event_too_few_the_last_one_fades_out(pipeline, monkeypatch):
    recites(monkeypatch, planned_otherwise(storyline(1.5, 1.0, 1.0), storyline(1.5, 1.0)))
    parts = streamed(pipeline)
    assert [part.sound.num_samples / RATE for part in parts] == [1.5, 1.0, 0.5]
    assert abs(parts[2].sound.samples[0, -1]) == 0
    assert "plans 3 events, and 2 were written" in parts[2].problems[0].message


def test_an_event_too_many_is_not_heard(pipeline, monkeypatch):
    recites(monkeypatch, planned_otherwise(storyline(1.5, 1.0), storyline(1.5, 1.0, 2.0)))
    parts = streamed(pipeline)
    assert sum(part.sound.num_samples for part in parts) == 2.5 * RATE
    assert "plans 2 events, and 3 were written" in parts[-1].problems[0].message


@pytest.mark.parametrize(
    ("reasoned", "wait_for_plan"), [("Two sounds, one after the other.", False), (storyline(0.5, 1.0, 3.0), True)]
)
def test_a_stream_that_waits_for_the_plan_is_the_story_told_at_once(pipeline, monkeypatch, reasoned, wait_for_plan):
    answer = planned_otherwise(reasoned, storyline(1.5, 1.0))
    recites(monkeypatch, answer)
    parts = streamed(pipeline, total_seconds=4.0, wait_for_plan=wait_for_plan)
    heard = np.concatenate([part.sound.samples for part in parts], axis=1)
    recites(monkeypatch, answer)
    told = pipeline("sounds", total_seconds=4.0, progress=False)
    np.testing.assert_allclose(heard, samples(told), rtol=0, atol=1e-5)


def test_a_stream_without_an_event_says_what_to_do(pipeline):
    with pytest.raises(StoryError, match="no complete event"):
        streamed(pipeline, max_new_tokens=20)


def test_a_stream_that_cannot_be_meant_is_refused_at_once(pipeline):
    for wrong, message in (
        ({"steps": 0}, "steps must be"),
        ({"total_seconds": -1}, "1 to 600 seconds"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.stream("sounds", **wrong)
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    offloaded = AudioStoryPipeline(*parts, pipeline.settings)
    offloaded.enable_model_cpu_offload(device="cpu")
    with pytest.raises(ValueError, match="offloaded cannot stream"):
        offloaded.stream("sounds")


# Compiled


@pytest.mark.parametrize(
    ("backend", "stories"),
    [  # clips of one length are not masked, those of several are
        ("eager", [(2.0,), (1.4, 1.4)]),
        pytest.param("inductor", [(1.5, 2.5, 1.2), (2.0,), (1.1, 3.0, 2.2, 1.4), (1.3,)], marks=pytest.mark.slow),
    ],
)
def test_a_compiled_model_tells_the_same_stories_and_compiles_once(pipeline, monkeypatch, backend, stories):
    torch._dynamo.reset()
    counters.clear()
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    compiled = AudioStoryPipeline(*parts, pipeline.settings)
    compiled.compile(backend=backend)
    graphs = []
    for seconds in stories:
        told = []
        for model in (compiled, pipeline):
            recites(monkeypatch, answer_of(storyline(*seconds)))
            told.append(model("x", seed=3, crossfade_seconds=0.0, progress=False))
        assert told[0].storyline == told[1].storyline
        np.testing.assert_allclose(*map(samples, told), rtol=0, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] >= 3  # the planner's step, and the DiT's two kinds of blocks
    assert graphs[len(stories) // 2 - 1] == graphs[-1]
    assert not counters["graph_break"]


def test_an_offloaded_model_is_not_compiled(pipeline):
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    offloaded = AudioStoryPipeline(*parts, pipeline.settings)
    offloaded.enable_model_cpu_offload(device="cpu")
    with pytest.raises(ValueError, match="load it whole"):
        offloaded.compile()


# On a GPU


def on_gpu(dtype: torch.dtype = torch.float32, **more) -> AudioStoryPipeline:
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    made = AudioStoryPipeline(*parts, Settings(steps=2, guidance=2.0, crossfade_seconds=0.5), **more)
    return made.to("cuda", dtype)


@pytest.mark.gpu
def test_a_gpu_tells_many_stories_and_streams_one_as_the_cpu_does(pipeline, monkeypatch):
    stories, told, gpu = [storyline(1.5, 2.5, 1.0), storyline(0.4)], [], on_gpu()
    for model in (pipeline, gpu):
        recites(monkeypatch, *map(answer_of, stories))
        told.append(list(model.tell_many(["a", "b"], seeds=[3, 4], progress=False)))
    for ours, theirs in zip(*told, strict=True):
        np.testing.assert_allclose(samples(ours), samples(theirs), rtol=0, atol=1e-2)
    recites(monkeypatch, answer_of(stories[0]))
    heard = np.concatenate([part.sound.samples for part in streamed(gpu, seed=3)], axis=1)
    np.testing.assert_allclose(heard, samples(told[0][0]), rtol=0, atol=1e-2)


@pytest.mark.gpu
def test_a_gpu_plans_freely_as_the_cpu_does(pipeline):
    prompts = [pipeline.vocabulary.encode(text) for text in ("rain<|think|>", "a dog, then wind<|think|>")]
    ours, theirs = (
        model.planner.write_many(prompts, model.vocabulary, max_new_tokens=30) for model in (on_gpu(), pipeline)
    )
    assert [one.ids for one in ours] == [one.ids for one in theirs]


@pytest.mark.gpu
def test_a_gpu_hears_what_the_cpu_hears(listening):
    gpu = on_gpu(audio_encoder=tiny.audio_encoder(), listener_projector=tiny.listener_projector())
    heard = [model._listener.hear(model._listener.open(recording(3.0))) for model in (gpu, listening)]
    assert heard[0].device.type == "cuda"
    assert_close(heard[0].cpu(), heard[1], rtol=0, atol=1e-3)
    assert isinstance(gpu.describe(recording(3.0), max_new_tokens=5, progress=False), str)


@pytest.mark.gpu
@pytest.mark.parametrize("in_int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_tells_nearly_the_same_in_fewer_bits(pipeline, monkeypatch, dtype, in_int8):
    gpu = on_gpu(dtype)
    if in_int8:
        weights_to_int8(gpu.planner, gpu.dit)
    told = []
    for model in (gpu, pipeline):
        recites(monkeypatch, answer_of(storyline(1.5, 2.5)))
        told.append(samples(model("x", progress=False)))
    assert np.abs(told[0] - told[1]).mean() < 0.3 * np.abs(told[1]).mean()


@pytest.mark.gpu
def test_a_compiled_gpu_tells_the_same_stories(pipeline, monkeypatch):
    torch._dynamo.reset()
    gpu = on_gpu()
    gpu.compile()  # the planner's steps as CUDA graphs
    for seconds in ((1.5, 2.5, 1.2), (2.0,), (1.1, 3.0, 2.2, 1.4)):
        told = []
        for model in (gpu, pipeline):
            recites(monkeypatch, answer_of(storyline(*seconds)))
            told.append(samples(model("x", seed=3, progress=False)))
        np.testing.assert_allclose(*told, rtol=0, atol=1e-2)


# What is refused, before any work


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"instruction": "  "}, "instruction is empty"),
        ({"total_seconds": -3}, "1 to 600 seconds"),
        ({"total_seconds": 0}, "1 to 600 seconds"),
        ({"total_seconds": math.nan}, "1 to 600 seconds"),
        ({"total_seconds": 1e9}, "1 to 600 seconds"),
        ({"steps": 0}, "steps must be"),
        ({"solver": "huen"}, "not 'huen'; 'heun' was meant"),
        ({"guidance": 0.5}, "guidance must be 1"),
        ({"guidance": math.nan}, "guidance must be 1"),
        ({"seed": -1}, "seed must be"),
        ({"crossfade_seconds": -0.1}, "cross-fade must last 0 to 2 seconds"),
        ({"crossfade_seconds": 3}, "cross-fade must last 0 to 2 seconds"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
        ({"instruction": "a <|gen|> bell"}, "special token"),
        ({"instruction": "rain " * 2000}, "shorten it"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_planning(pipeline, monkeypatch, wrong, message):
    monkeypatch.setattr(Planner, "write_many", lambda *_, **__: pytest.fail("planned all the same"))
    with pytest.raises(ValueError, match=message):
        pipeline(**{"instruction": "rain", "total_seconds": 10.0, "progress": False, **wrong})


def test_parts_of_different_models_are_refused():
    with pytest.raises(ValueError, match="DiT channels and codec: 8 and 4"):
        AudioStoryPipeline(
            tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), _codec_with_other_latents(), Settings()
        )


def _codec_with_other_latents():
    codec = tiny.codec(front="waveform")
    return type(codec)(**{**codec.config, "latent_channels": 4})


def test_progress_is_shown_for_every_part_of_the_walk_or_not_at_all(pipeline, writes, capsys):
    writes(storyline(1.5))
    pipeline("x", total_seconds=1.5)
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("planning", "denoising", "decoding"))
    pipeline.render(plan_of(pipeline, 1.5), progress=False)
    assert not capsys.readouterr().err
