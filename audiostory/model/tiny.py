"""A seeded miniature of each part, built in milliseconds, for tests: ours, and those of whoever builds on the network.

    model = tiny.audiostory()
    model.losses(tiny.story_batch()).named["flow"]

The parts fit each other and the batches. The same seed gives the same weights and leaves torch's generator as it was.
Layers that start at zero in real networks (the fuser's output, the DiT's modulation) do not here: a part that answers
zero to everything would hide a mistake in the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import T5Config

from audiostory.model.audiostory import AudioStory, TextToAudio
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.hearing import Hearing
from audiostory.model.inputs import ClipBatch, HearingBatch, StoryBatch
from audiostory.model.listener import AudioEncoder, AudioEncoderConfig, ListenerProjector
from audiostory.model.planner import Planner, PlannerConfig
from audiostory.model.text_encoder import TextEncoder
from audiostory.story import script
from audiostory.story.types import Event, Instruction, Role, Script, Storyline
from audiostory.story.vocabulary import Vocabulary, add_special_tokens

PLANNER_WIDTH, NUM_SEMANTIC, NUM_RESIDUAL = 32, 4, 2
CONDITION_WIDTH, FEATURE_SCALE = 16, 2.0
LATENT_CHANNELS, FRAME_RATE, MAX_SECONDS = 8, 25.0, 4.0
AUDIO_WIDTH, NUM_LISTENING, WINDOW_SECONDS = 16, 4, 1

STORIES: tuple[tuple[Instruction, Storyline], ...] = (
    (
        Instruction(text="a bell, then a dog", total_seconds=0.7),
        Storyline(
            summary="A bell wakes a dog.",
            events=(
                Event(caption="a bell rings", seconds=0.4, start=0.0, story_detail="It is noon.", sound_detail="deep"),
                Event(caption="a dog barks", seconds=0.3, start=0.4, story_detail="It wakes.", sound_detail="near"),
            ),
        ),
    ),
    (
        Instruction(text="rain"),
        Storyline(summary="It rains.", events=(Event(caption="rain falls on a tin roof", seconds=0.5),)),
    ),
)

Module = TypeVar("Module", bound=nn.Module)


def planner(seed: int = 0) -> Planner:
    config = PlannerConfig(
        vocab_size=len(vocabulary()), hidden=PLANNER_WIDTH, layers=2, heads=2, kv_heads=1, intermediate=48
    )
    return _seeded(seed, lambda: Planner.random(config))


def bridge(seed: int = 0) -> Bridge:
    """With something other than zero as its unconditional tokens."""

    def build() -> Bridge:
        part = Bridge(
            planner_width=PLANNER_WIDTH,
            condition_width=CONDITION_WIDTH,
            num_semantic=NUM_SEMANTIC,
            num_residual=NUM_RESIDUAL,
            feature_scale=FEATURE_SCALE,
            num_heads=2,
        )
        part.unconditional.normal_()
        return part

    return _seeded(seed, build)


def dit(seed: int = 0) -> VelocityDiT:
    """One double and one single block; sequences as long as the clip, at most 4 seconds of 25 frames."""
    return _seeded(
        seed,
        lambda: VelocityDiT(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=CONDITION_WIDTH,
            in_channels=LATENT_CHANNELS,
            max_seconds=MAX_SECONDS,
            axes_dims_rope=(4, 6, 6),
            fixed_frames=None,
            frame_rate=FRAME_RATE,
        ),
    )


def codec(seed: int = 0, front: str = "spectrogram") -> Codec:
    """Mono, 25 latent frames a second: 16 kHz behind the spectrogram front, 800 Hz behind the waveform front."""
    spectrogram = front == "spectrogram"
    return _seeded(
        seed,
        lambda: Codec(
            front=front,
            sample_rate=16000 if spectrogram else 800,
            audio_channels=1,
            encoder_hidden_size=2 * LATENT_CHANNELS,
            downsampling_ratios=(2, 2) if spectrogram else (2, 4, 4),
            channel_multiples=(1, 2) if spectrogram else (1, 1, 2),
            decoder_channels=16,
            latent_channels=LATENT_CHANNELS,
        ),
    )


def text_encoder(seed: int = 0) -> TextEncoder:
    tokenizer = _byte_tokenizer(["<pad>", "</s>"])  # ids 0 and 1, as every T5 has them
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=CONDITION_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return _seeded(seed, lambda: TextEncoder.random(config, tokenizer))


def audio_encoder(seed: int = 0) -> AudioEncoder:
    """Windows of one second, of 50 frames. Its positions are sinusoids, which rest."""
    config = AudioEncoderConfig(
        window_seconds=WINDOW_SECONDS, num_mels=8, width=AUDIO_WIDTH, layers=1, heads=2, intermediate=32
    )
    return _seeded(seed, lambda: AudioEncoder.random(config))


def listener_projector(seed: int = 0) -> ListenerProjector:
    return _seeded(
        seed,
        lambda: ListenerProjector(audio_width=AUDIO_WIDTH, planner_width=PLANNER_WIDTH, num_tokens=NUM_LISTENING),
    )


def audiostory(seed: int = 0, condition_dropout: float = 0.0, listens: bool = False) -> AudioStory:
    projector = listener_projector(seed) if listens else None
    return AudioStory(planner(seed), bridge(seed), dit(seed), projector, condition_dropout=condition_dropout)


def hearing(seed: int = 0) -> Hearing:
    parts = audio_encoder(seed), text_encoder(seed)
    return _seeded(seed, lambda: Hearing(*parts, width=8))


def text_to_audio(seed: int = 0, condition_dropout: float = 0.0) -> TextToAudio:
    return TextToAudio(text_encoder(seed), dit(seed), condition_dropout=condition_dropout)


@cache
def vocabulary() -> Vocabulary:
    """One token per byte, Qwen's three chat tokens and all 612 of ours."""
    tokenizer = _byte_tokenizer([])
    add_special_tokens(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    add_special_tokens(tokenizer)
    return Vocabulary(tokenizer, num_semantic=NUM_SEMANTIC, num_residual=NUM_RESIDUAL)


def story_batch(stories: Sequence[tuple[Instruction, Storyline]] = STORIES, seed: int = 0) -> StoryBatch:
    """A row per story, written by `script.write`, with random latents and teacher states for every event."""
    scripts = [script.write(instruction, storyline, vocabulary()) for instruction, storyline in stories]
    return _story_batch(scripts, [event.seconds for _, storyline in stories for event in storyline.events], seed)


def listening_batch(seed: int = 0) -> StoryBatch:
    """Three rows: an answer about a recording of two windows, what follows one of one window, and a story by itself."""
    (first, story), (second, rain) = STORIES
    scripts = [
        script.write_answer(Instruction(text="what is heard?"), "a dog", vocabulary(), 2 * NUM_LISTENING),
        script.write(first, story, vocabulary(), num_listening=NUM_LISTENING),
        script.write(second, rain, vocabulary()),
    ]
    batch = _story_batch(scripts, [event.seconds for told in (story, rain) for event in told.events], seed)
    places = [script.listening for script in scripts]
    return replace(
        batch,
        audio_features=torch.randn(3, NUM_LISTENING, AUDIO_WIDTH, generator=_generator(seed + 1)),
        audio_row=torch.tensor([0, 0, 1]),
        audio_slots=torch.tensor([place for row in places for place in row]).reshape(3, NUM_LISTENING),
    )


def _story_batch(scripts: Sequence[Script], seconds: Sequence[float], seed: int) -> StoryBatch:
    slots = [(row, slot) for row, written in enumerate(scripts) for slot in written.slots]
    generator = _generator(seed)
    latents, frames = _latents(seconds, generator)
    return StoryBatch(
        ids=_padded([written.ids for written in scripts]),
        attention=_padded([[1] * len(written.ids) for written in scripts]).bool(),
        roles=_padded([written.roles for written in scripts], fill=Role.PROMPT),
        event_row=torch.tensor([row for row, _ in slots]),
        semantic_slots=torch.tensor([list(slot.semantic) for _, slot in slots]),
        residual_slots=torch.tensor([list(slot.residual) for _, slot in slots]),
        seconds=torch.tensor(seconds),
        frames=frames,
        latents=latents,
        teacher=torch.randn(len(slots), NUM_SEMANTIC, CONDITION_WIDTH, generator=generator),
        sample_ids=tuple(f"tiny-{row}" for row in range(len(scripts))),
    )


def clip_batch(captions: Sequence[str] = ("a bell rings", "rain"), seed: int = 0) -> ClipBatch:
    """A clip per caption, each a little longer than the one before, with random latents."""
    seconds = [0.3 + 0.1 * index for index in range(len(captions))]
    text_ids, text_attention = text_encoder().tokenize(captions, num_tokens=16)
    latents, frames = _latents(seconds, _generator(seed))
    return ClipBatch(
        text_ids=text_ids,
        text_attention=text_attention,
        seconds=torch.tensor(seconds),
        frames=frames,
        latents=latents,
        sample_ids=tuple(f"tiny-{index}" for index in range(len(captions))),
    )


def hearing_batch(seed: int = 0) -> HearingBatch:
    """Two windows of noise with three events, of which the first and the last have the same caption."""
    captions = ("a bell rings", "rain", "a bell rings")
    samples = torch.randn(2, WINDOW_SECONDS * AudioEncoder.sample_rate, generator=_generator(seed))
    text_ids, text_attention = text_encoder().tokenize(captions, num_tokens=16)
    return HearingBatch(
        log_mel=audio_encoder().log_mel(samples),
        event_row=torch.tensor([0, 0, 1]),
        spans=torch.tensor([[0.0, 0.3], [0.3, 1.0], [0.2, 0.9]]),
        text_ids=text_ids,
        text_attention=text_attention,
        sample_ids=tuple(f"tiny-{index}" for index in range(len(captions))),
    )


def _seeded(seed: int, build: Callable[[], Module]) -> Module:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build()
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return module


def _generator(seed: int) -> torch.Generator:
    # Far from the small seeds that tests give to a loss: its noise would be the very latents.
    return torch.Generator().manual_seed(1_000_000 + seed)


def _latents(seconds: Sequence[float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise as latents [S T Z], and the frames [S] that are each clip's own; the rest of its row is zero."""
    frames = torch.tensor([math.ceil(FRAME_RATE * length - 1e-6) for length in seconds])
    latents = torch.randn(len(seconds), int(frames.max()), LATENT_CHANNELS, generator=generator)
    own = torch.arange(latents.shape[1]) < frames[:, None]
    return latents * own[..., None], frames


def _padded(rows: Sequence[Sequence[int]], fill: int = 0) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


def _byte_tokenizer(first: Sequence[str]) -> Tokenizer:
    """Every byte is a token, after the `first` ones."""
    names = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
