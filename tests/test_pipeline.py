"""The story walk with tiny components: lengths to the sample, seeds, splitting, batching, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partialmethod

import golden_weights
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from audiostory import sound, timeline
from audiostory.model import flow, tiny
from audiostory.model.dit import guided_velocity
from audiostory.model.inputs import Condition
from audiostory.model.listener import AudioEncoder
from audiostory.model.planner import Planner, reciting
from audiostory.pipeline import AudioStoryPipeline, Plan, StoryError
from audiostory.sound import Waveform
from audiostory.story import Event, Instruction, ProblemKind, Storyline, script
from audiostory.weights.ours import Settings

RATE = 800  # of the tiny waveform codec


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
        monkeypatch.setattr(Planner, "write", partialmethod(Planner.write, choose=reciting(ids, vocabulary)))

    return force


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
    write = Planner.write

    def noted(planner: Planner, ids, vocabulary, **options):
        given.append(list(ids))
        return write(planner, ids, vocabulary, **options)

    monkeypatch.setattr(Planner, "write", noted)
    return given


def answers(monkeypatch, text: str) -> None:
    vocabulary = tiny.vocabulary()
    ids = [*vocabulary.encode(text), vocabulary.im_end]
    monkeypatch.setattr(Planner, "write", partialmethod(Planner.write, choose=reciting(ids, vocabulary)))


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
    features, write = AudioEncoder.features, Planner.write

    def noted(encoder: AudioEncoder, samples, num_tokens):
        heard.append(len(samples))
        return features(encoder, samples, num_tokens)

    def answering(planner: Planner, ids, vocabulary, *, heard: torch.Tensor, **options):
        asked.append((list(ids), heard))
        answer = reciting([*vocabulary.encode(f"answer {len(asked)}"), vocabulary.im_end], vocabulary)
        return write(planner, ids, vocabulary, heard=heard, choose=answer, **options)

    monkeypatch.setattr(AudioEncoder, "features", noted)
    monkeypatch.setattr(Planner, "write", answering)
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
    monkeypatch.setattr(Planner, "write", lambda *_, **__: pytest.fail("answered all the same"))
    with pytest.raises(ValueError, match="shorten it"):
        listening.describe(recording(1.5), ["which sounds?", "rain " * 2000], progress=False)


def test_the_planner_is_given_what_the_listener_hears(listening, monkeypatch):
    given: list[torch.Tensor] = []
    write = Planner.write

    def noted(planner: Planner, ids, vocabulary, *, heard: torch.Tensor, **options):
        given.append(heard)
        return write(planner, ids, vocabulary, heard=heard, **options)

    monkeypatch.setattr(Planner, "write", noted)
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
    monkeypatch.setattr(Planner, "write", lambda *_, **__: pytest.fail("planned all the same"))
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
