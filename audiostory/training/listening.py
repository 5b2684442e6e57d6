"""What a run lets a person hear and read now and then: the same few held-out rows each time, written to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiostory import sound
from audiostory.dataset.manifest import Row
from audiostory.dataset.sample import read_samples
from audiostory.model import flow
from audiostory.model.audiostory import AudioStory, TextToAudio
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT, denoise
from audiostory.model.inputs import Condition
from audiostory.model.listener import AudioEncoder, Listener
from audiostory.story import Layout, Vocabulary, script

STEPS, GUIDANCE, SEED = 25, 3.0, 0
MAX_NEW_TOKENS = 1600


def reconstructions(codec: Codec, rows: Sequence[Row], folder: Path) -> None:
    """Each row's first recording, and what the codec makes of it."""
    for row in rows:
        path = row.clips[0].audio
        if path is None:
            continue
        samples = read_samples(path, sample_rate=codec.sample_rate, audio_channels=codec.config["audio_channels"])
        latents = codec.encode(torch.from_numpy(samples)[None].to(codec.device))
        rebuilt = codec.decode(latents, num_samples=samples.shape[1])[0]
        _write(folder / f"{row.id}_original.wav", samples, codec)
        _write(folder / f"{row.id}_rebuilt.wav", rebuilt.cpu().numpy(), codec)


def captions(root: TextToAudio, codec: Codec | None, num_tokens: int, rows: Sequence[Row], folder: Path) -> None:
    """A clip of each row's first caption. Nothing without a codec."""
    if codec is None:
        return
    seconds = [row.clips[0].seconds for row in rows]
    tokens = root.text_encoder.encode([row.storyline.events[0].caption for row in rows], num_tokens)
    clips = _render(root.dit, codec, tokens, root.text_encoder.unconditional(num_tokens), seconds)
    for row, samples in zip(rows, clips, strict=True):
        _write(folder / f"{row.id}.wav", samples, codec)
    lines = [f"{row.id}: {row.storyline.events[0].caption}\n" for row in rows]
    (folder / "captions.txt").write_text("".join(lines), encoding="utf-8")


def stories(
    root: AudioStory,
    codec: Codec | None,
    audio_encoder: AudioEncoder | None,
    vocabulary: Vocabulary,
    layout: Layout,
    rows: Sequence[Row],
    folder: Path,
) -> None:
    """What the planner writes for each row: an answer beside the true one, or a story; with a codec, its events in
    sound, one after the other. Rows that hold a recording are left out where nothing hears it."""
    folder.mkdir(parents=True, exist_ok=True)
    listener = Listener(audio_encoder, root.listener_projector, room=MAX_NEW_TOKENS)
    for row in rows:
        if row.instruction.audio is not None and not listener.max_seconds:
            continue
        recording = listener.open(row.instruction.audio)
        asked = (script.question if row.answer else script.prompt)(
            row.instruction, vocabulary, num_listening=recording.num_tokens
        )
        written = root.planner.write(asked, vocabulary, heard=listener.hear(recording), max_new_tokens=MAX_NEW_TOKENS)
        truth = f"\nthe answer: {row.answer}\n" if row.answer else "\n"
        (folder / f"{row.id}.txt").write_text(_readable(asked, written.ids, vocabulary) + truth, encoding="utf-8")
        total = row.instruction.total_seconds
        events = script.read(written.ids, vocabulary, total_seconds=total, layout=layout).storyline.events
        if codec is None or row.answer or not events:
            continue
        seconds = [min(max(event.seconds, 0.5), root.dit.max_seconds) for event in events]
        tokens = root.bridge(written.bridge).fused
        clips = _render(root.dit, codec, tokens, root.bridge.unconditional, seconds)
        _write(folder / f"{row.id}.wav", np.concatenate(clips, axis=1), codec)


def _readable(asked: Sequence[int], written: Sequence[int], vocabulary: Vocabulary) -> str:
    """Without the tokens that are too many to read, and always the same."""
    unread = {*vocabulary.semantic_ids, *vocabulary.residual_ids, vocabulary.listening}
    texts = (vocabulary.decode([token for token in ids if token not in unread]) for ids in (asked, written))
    return "\n".join(texts)


def _render(
    dit: VelocityDiT,
    codec: Codec,
    tokens: Float[Tensor, "S N C"],
    unconditional: Float[Tensor, "N C"],
    seconds: Sequence[float],
) -> list[Float[np.ndarray, "A W"]]:
    frames = [dit.num_frames(length) for length in seconds]
    noise = [flow.clip_noise(SEED, i, count, dit.config["in_channels"]) for i, count in enumerate(frames)]
    condition = Condition(tokens=tokens, seconds=torch.tensor(seconds, device=tokens.device))
    latents = denoise(dit, noise, condition, unconditional, steps=STEPS, guidance=GUIDANCE)
    codec = codec.to(tokens.device)  # type: ignore[arg-type]
    wanted = [
        min(round(length * codec.sample_rate), count * codec.hop) for length, count in zip(seconds, frames, strict=True)
    ]
    return [
        codec.decode(clip[None], num_samples=num_samples)[0].cpu().numpy()
        for clip, num_samples in zip(latents, wanted, strict=True)
    ]


def _write(path: Path, samples: Float[np.ndarray, "A W"], codec: Codec) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound.write(path, sound.Waveform(samples=samples.astype(np.float32), sample_rate=codec.sample_rate))
