"""What is measured: models of several scales, and stories for them to tell.

A model of random weights writes nonsense without end. It is therefore given a script to recite: it is asked for every
token, as in a real story, and the script answers in its place, so that it plans as long as a trained one would.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.planner import Planner, PlannerConfig
from audiostory.pipeline import MINI, AudioStoryPipeline
from audiostory.story import SPECIAL_TOKENS, Event, Instruction, Storyline, Vocabulary, add_special_tokens, script
from audiostory.weights import released
from audiostory.weights.ours import Settings

RANDOM_3B = Path("runs/random-3b/ckpt/audiostory-3B")
INSTRUCTIONS = (  # of the mini's world
    "a dog barks twice, then rain comes down, then a bell rings far away, then footsteps in a small room",
    "thunder rolls, then rain, a horn far away, and at last an owl",
    "wind in the open air, then birds, then a train, and after it a siren",
    "someone knocks three times, then a door creaks, then a clock, then a piano in a large hall",
)
CAPTION, STORY_DETAIL, SOUND_DETAIL = "a dog barks twice", "a stranger is at the gate", "medium, in a small room"


@dataclass(frozen=True, kw_only=True)
class Story:
    """What is asked, and the answer's ids where the planner is to recite one."""

    instruction: Instruction
    answer: tuple[int, ...] | None = None


def open_model(scale: str, folder: Path | None, tangoflux: Path | None, dtype: torch.dtype) -> AudioStoryPipeline:
    """The model on the CPU. ValueError when its folder is not there."""
    folder = folder_of(scale, folder)
    if folder is None:
        return medium() if dtype == torch.float32 else medium().to(dtype=dtype)
    if folder == RANDOM_3B and not folder.is_dir():
        raise ValueError(
            f"there is no {folder}; make it: python scripts/make_random_release.py --output runs/random-3b"
        )
    if released.looks_released(folder):
        return AudioStoryPipeline.from_released(folder, tangoflux, dtype=dtype)
    return AudioStoryPipeline.from_pretrained(folder, dtype=dtype)


def folder_of(scale: str, folder: Path | None) -> Path | None:
    """Where a model lies; None for one that is made in memory."""
    return folder or {"mini": MINI, "medium": None, "3b": RANDOM_3B}[scale]


def medium() -> AudioStoryPipeline:
    """A model like the release, a tenth of its size, from random weights: 64 + 8 bridge tokens, stereo at 44.1 kHz, and
    a DiT that knows one length, 645 frames. It writes with the mini's tokenizer, into a table of 32,768 rows."""
    tokenizer = Tokenizer.from_file(str(MINI / "tokenizer" / "tokenizer.json"))
    add_special_tokens(tokenizer, [name for name in SPECIAL_TOKENS if tokenizer.token_to_id(name) is None])
    vocabulary = Vocabulary(tokenizer, num_semantic=64, num_residual=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        planner = Planner.random(
            PlannerConfig(vocab_size=32768, hidden=1024, layers=16, heads=8, intermediate=4096, max_positions=32768)
        )
        bridge = Bridge(planner_width=1024, condition_width=768, num_semantic=64, num_residual=8, feature_scale=10.0)
        bridge.unconditional.normal_()
        dit = VelocityDiT(
            num_layers=3,
            num_single_layers=6,
            attention_head_dim=64,
            joint_attention_dim=768,
            axes_dims_rope=(8, 28, 28),
        )
        _wake(dit)
        codec = Codec(decoder_channels=64, channel_multiples=(1, 1, 2, 4, 8))
    settings = Settings(steps=8, repetition_penalty=1.05)
    return AudioStoryPipeline(planner, vocabulary, bridge.eval(), dit.eval(), codec.eval(), settings)


def _wake(dit: VelocityDiT) -> None:
    """A new network answers zero to everything, which would hide all differences."""
    for parameter in dit.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)


def asked(num: int, total_seconds: float) -> list[Story]:
    """Stories that a trained model writes by itself."""
    texts = [INSTRUCTIONS[number % len(INSTRUCTIONS)] for number in range(num)]
    return [Story(instruction=Instruction(text=text, total_seconds=total_seconds)) for text in texts]


def scripted(pipeline: AudioStoryPipeline, num_events: int, seconds: float) -> Story:
    """A story to recite, of equal events. ValueError when it is longer than the model's stories may be."""
    longest = pipeline.settings.max_story_seconds
    if num_events * seconds > longest:
        raise ValueError(
            f"{num_events} events of {seconds:g} s are more than the {longest:g} s that a story may last; lower "
            "--seconds"
        )
    events = tuple(
        Event(
            caption=CAPTION,
            seconds=seconds,
            start=round(number * seconds, 6),
            story_detail=STORY_DETAIL,
            sound_detail=SOUND_DETAIL,
        )
        for number in range(num_events)
    )
    instruction = Instruction(text=CAPTION, total_seconds=round(num_events * seconds, 3))
    vocabulary, settings = pipeline.vocabulary, pipeline.settings
    written = script.write(
        instruction,
        Storyline(summary=CAPTION, events=events),
        vocabulary,
        lead=settings.lead_in,
        layout=settings.script,
    )
    prompt = script.prompt(instruction, vocabulary, settings.lead_in)
    config = pipeline.planner.qwen.config  # what is recited need not make sense beyond the length it was trained at
    config.max_position_embeddings = max(config.max_position_embeddings, len(written.ids) + 1)
    return Story(instruction=instruction, answer=tuple(written.ids[len(prompt) :]))
