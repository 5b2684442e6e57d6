"""Whole stories through the pipeline, and the cases in which ours means to be better than the release."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from audiostory import sound
from audiostory.model import flow
from audiostory.model.dit import guided_velocity
from audiostory.model.inputs import Condition
from audiostory.parity.checks import WAVE, Checks, Subject, absolute, exact, failed, relative
from audiostory.parity.planning import content_of, recite
from audiostory.pipeline import Plan, StoryAudio
from audiostory.sound import Waveform
from audiostory.story import Instruction, Vocabulary, script
from audiostory.story.timing import is_duration

NOISE_SEED = 0  # of every clip of the release, whatever its --seed (SPEC 7)


def end_to_end(subject: Subject) -> Checks:
    recorded, meta = subject.recording.data("end_to_end"), subject.recording.meta["end_to_end"]
    plan = _plan(subject, subject.recording.data("generate_scripted")["prompt_ids"][0].tolist())
    events = [(event.caption, event.seconds) for event in plan.storyline.events]
    yield exact("end_to_end.events", events, [(clip["content"], clip["parsed_duration"]) for clip in meta["clips"]])
    fused = subject.merged.bridge(plan.bridge_tokens).fused
    yield relative("end_to_end.fused", fused, recorded["fused"])
    seconds = torch.tensor([clip["used_duration"] for clip in meta["clips"]], dtype=torch.float32)
    velocity = guided_velocity(
        subject.merged.dit,
        Condition(tokens=fused, seconds=seconds),
        subject.merged.bridge.unconditional,
        float(meta["guidance"]),
    )
    shape = recorded["latents_0"].shape[1:]
    noise = torch.stack([flow.clip_noise(NOISE_SEED, index, *shape, shared=True) for index in range(len(fused))])
    latents = flow.euler(velocity, noise, int(meta["steps"]))
    told = _render(subject, plan, meta, float(meta["crossfade_sec"]))
    resampled = told.resample(int(meta["target_sr"]))
    for index in range(len(meta["clips"])):
        yield absolute(f"end_to_end.latents_{index}", latents[index : index + 1], recorded[f"latents_{index}"])
        yield absolute(
            f"end_to_end.wave_trimmed_{index}", told.clips[index].samples, recorded[f"wave_trimmed_{index}"], WAVE
        )
        yield absolute(
            f"end_to_end.wave_resampled_{index}",
            resampled.clips[index].samples,
            recorded[f"wave_resampled_{index}"],
            WAVE,
        )
    yield absolute("end_to_end.concat", resampled.story.samples, recorded["concat"], WAVE)
    yield exact("end_to_end.vae_sr", subject.merged.codec.sample_rate, meta["vae_sr"])
    yield exact("end_to_end.concat_samples", resampled.story.num_samples, meta["concat_samples"])


def inference_main(subject: Subject) -> Checks:
    """The released command's own run, with the script that was put into the planner's mouth."""
    recorded, meta = subject.recording.data("inference_main"), subject.recording.meta["inference_main"]
    options, vocabulary = _options(meta["args"]), subject.merged.vocabulary
    instruction = Instruction(text=options.generated_caption, total_seconds=options.total_duration)
    lead, note = subject.merged.settings.lead_in, ""
    if options.seed != 0:
        asked = vocabulary.decode(recorded["prompt_ids"][0].tolist())
        lead = asked.partition("<|im_start|>user\n")[2].partition(instruction.text)[0]
        note = f"the lead-in of seed {options.seed}, {lead!r}, is taken from the recording"
    prompt = script.prompt(instruction, vocabulary, lead)
    yield exact("inference_main.prompt_ids", torch.tensor([prompt]), recorded["prompt_ids"], note)
    told = _render(subject, _plan(subject, prompt), meta, options.crossfade_sec)
    told = told.resample(options.target_sr)
    yield absolute("inference_main.wave", told.story.samples, recorded["wave"], WAVE)
    yield exact("inference_main.wav_sample_rate", told.story.sample_rate, meta["wav_sample_rate"])
    yield exact("inference_main.wav_shape", list(told.story.samples.shape), meta["wav_shape"])


def _render(subject: Subject, plan: Plan, settings: dict[str, Any], crossfade_seconds: float) -> StoryAudio:
    return subject.pipeline.render(
        plan,
        steps=int(settings["steps"]),
        guidance=float(settings["guidance"]),
        crossfade_seconds=crossfade_seconds,
        as_released=True,
        progress=False,
    )


def _options(words: list[str]) -> argparse.Namespace:
    """The released command's arguments, with its defaults (SPEC 8)."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--generated_caption", required=True)
    parser.add_argument("--total_duration", type=float, default=50.0)
    parser.add_argument("--target_sr", type=int, default=32000)
    parser.add_argument("--crossfade_sec", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_known_args(words)[0]


def meta(subject: Subject) -> Checks:
    recorded, vocabulary = subject.recording.meta, subject.merged.vocabulary
    ids = {name: [vocabulary.tokenizer.token_to_id(name)] for name in recorded["token_ids"]}
    yield exact("meta.token_ids", ids, recorded["token_ids"])
    yield exact("meta.len_tokenizer", len(vocabulary), recorded["len_tokenizer"])
    cases = recorded["tokenize_cases"]
    ours = [(vocabulary.encode(case["text"]), vocabulary.decode(case["ids"])) for case in cases]
    yield exact("meta.tokenize_cases", ours, [(case["ids"], case["decoded"]) for case in cases])
    yield from _durations(subject)
    yield from _edges(subject)
    yield from _mixed_channels(subject)
    yield from _no_guidance(subject)


def _durations(subject: Subject) -> Checks:
    vocabulary = subject.merged.vocabulary
    for number, case in enumerate(subject.recording.meta["extract_content_and_duration"]):
        event = f"a<|/think|><|gen|>{case['text']}{_bridge(vocabulary)}<|/gen|><|im_end|>"
        reading = script.read(vocabulary.encode(event), vocabulary)
        said = [problem.message for problem in reading.problems if problem.event is not None]
        (ours,) = reading.storyline.events
        theirs = None if case["duration"] == "None" else float(case["duration"])
        name = f"meta.extract_content_and_duration.{number}"
        if is_duration(theirs) and case["content"] and _is_plain(case["content"], vocabulary):
            yield exact(name, (ours.caption, ours.seconds), (case["content"], theirs))
        else:
            note = (
                f"{case['text']!r}: the release reads {case['content']!r}, {case['duration']}; ours {ours.caption!r}, "
                f"{ours.seconds:g} s, and says: {'; '.join(said)}"
            )
            yield exact(name, bool(said) and math.isfinite(ours.seconds) and ours.seconds > 0, True, note)


def _edges(subject: Subject) -> Checks:
    """Malformed answers. The release loses everything at the first fault (SPEC 4); ours keeps each complete event."""
    vocabulary = subject.merged.vocabulary
    good = f"<|gen|>dogs<timestamp>1.0</timestamp>{_bridge(vocabulary)}<|/gen|>"
    broken = "<|gen|>cats<timestamp>1.0</timestamp><t5><t5_00000>"
    known: dict[str, tuple[str, list[str], str]] = {
        "one_event_ok": (f"abc<|/think|>{good}<|im_end|>", ["dogs"], ""),
        "no_think_close": (f"abc{good}<|im_end|>", ["dogs"], "the first <|gen|> ends the reasoning"),
        "no_events": ("abc<|/think|><|im_end|>", [], "the reasoning is kept"),
        "extra_gen_open": (f"abc<|/think|><|gen|>x<|/gen|>{good}<|im_end|>", ["dogs"], "a stray marker is no caption"),
        "truncated_second_event": (f"abc<|/think|>{good}{broken}", ["dogs"], "the complete event is kept"),
    }
    for case, theirs in subject.recording.meta["edge_generation"].items():
        if case not in known:
            yield failed(f"meta.edge_generation.{case}", "a case that is not known here; add what was written to it")
            continue
        text, expected, reason = known[case]
        reading = script.read(vocabulary.encode(text), vocabulary)
        captions = [event.caption for event in reading.storyline.events]
        ours = (captions, len(reading.slots), reading.storyline.reasoning)
        note = reason and f"the release gives {theirs}; ours {captions} with its reasoning {ours[2]!r}: {reason}"
        yield exact(f"meta.edge_generation.{case}", ours, (expected, len(expected), "abc"), note)
        if not reason:
            said = ([content_of(theirs[2][0])[0]], theirs[0][0], theirs[3])
            yield exact(f"meta.edge_generation.{case}.as_recorded", ours, said)


def _mixed_channels(subject: Subject) -> Checks:
    clips = [Waveform(samples=np.zeros((channels, 50)), sample_rate=100) for channels in (1, 2)]
    theirs = subject.recording.meta["crossfade_mixed_channels"]
    yield _raises("meta.crossfade_mixed_channels", lambda: sound.crossfade(clips, 0.1), theirs)


def _no_guidance(subject: Subject) -> Checks:
    """A scale of 1 is an error in the release, and in ours the conditional velocity alone."""
    recorded = subject.recording.data("sampler")
    condition = Condition(tokens=recorded["fused"], seconds=torch.tensor([1.0]))
    noise, sigma = recorded["init_noise"], torch.ones(1)
    velocity = guided_velocity(subject.merged.dit, condition, subject.merged.bridge.unconditional, 1.0)
    note = f"the release ends with {subject.recording.meta['guidance_1']!r}; ours leaves the unconditional half out"
    plain = subject.merged.dit(noise, sigma, condition)
    yield replace(absolute("meta.guidance_1", velocity(noise, sigma), plain), note=note)


def _raises(name: str, act: Callable[[], Any], theirs: str):
    try:
        act()
    except ValueError as error:
        return exact(name, "ValueError", "ValueError", f"the release ends with {theirs!r}; ours says: {error}")
    return failed(name, "no error was raised")


def _plan(subject: Subject, prompt: list[int]) -> Plan:
    """The recorded script as the planner writes it after this prompt, its durations left as written."""
    ids = subject.recording.data("generate_scripted")["script_ids"].tolist()
    return subject.pipeline.read_plan(recite(subject, prompt, ids), Instruction(text="the recorded script"))


def _is_plain(text: str, vocabulary: Vocabulary) -> bool:
    """Whether it is words alone, which the tokenizer gives back as they were."""
    ids = vocabulary.encode(text)
    return vocabulary.decode(ids) == text and all(map(vocabulary.is_text, ids))


def _bridge(vocabulary: Vocabulary) -> str:
    return vocabulary.decode(
        [
            vocabulary.semantic_open,
            *vocabulary.semantic_block,
            vocabulary.residual_open,
            *vocabulary.residual_block,
        ]
    )
