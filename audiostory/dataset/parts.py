"""What is computed of a corpus once: latents of clips, teacher states of captions, features of what is heard and, for
ablations, of the clips themselves.

Each kind knows its items in a manifest's rows, what their tensors depend on, and how to make them with its network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiostory.dataset import store
from audiostory.dataset.manifest import Damage, Row
from audiostory.dataset.sample import read_samples

CLIPS_PER_SHARD = 512
CAPTIONS_PER_SHARD = 4096
CAPTIONS_PER_BATCH = 256
RECORDINGS_PER_SHARD = 512
SECONDS_PER_BATCH = 60.0
SECONDS_HELD = 1200.0  # of recordings in memory, while clips of like length are gathered


class Part(Protocol):
    """One kind of tensor: the items that it is made of, and how. `kind` begins the tensors' names, and files'."""

    kind: str
    unit: str
    per_shard: int
    network: Network

    def notes(self) -> Mapping[str, Any]:
        """What the index tells of it."""
        ...

    def items(self, rows: Sequence[Row]) -> list[Any]: ...

    def of(self, items: Sequence[Any]) -> str:
        """A digest of all that the items' tensors depend on."""
        ...

    def tensors(self, items: Sequence[Any], damage: Damage, told: Callable[[int], object]) -> Iterator[tuple[str, Any]]:
        """Each tensor by name, in half precision."""
        ...


class Network:
    """A network that is read once it is needed: where nothing is to be made, it never is."""

    def __init__(self, name: str, fingerprint: str, read: Callable[[], Any] | None):
        """`read` is None for one that is known from an earlier run alone."""
        self.name, self.fingerprint, self.read = name, fingerprint, read

    @cached_property
    def module(self) -> Any:
        if self.read is None:
            raise ValueError(
                f"rows have changed since their part of the {self.name} was made, so it must be made anew too; give "
                f"--{self.name} as well"
            )
        return self.read()


class Latents:
    """The codec's, one per clip: of the clip alone, or with `num_frames` of the clip and the silence that fills them,
    as a DiT needs that has learnt one length (SPEC 7: 645 frames, whatever lasts less)."""

    kind, unit, per_shard = "latents", "clip", CLIPS_PER_SHARD

    def __init__(self, network: Network, num_frames: int | None = None):
        self.network, self.num_frames = network, num_frames

    def notes(self) -> Mapping[str, Any]:
        told = {"codec": self.network.fingerprint, "frame_rate": self.network.module.frame_rate}
        return {**told, "num_frames": self.num_frames}

    def items(self, rows: Sequence[Row]) -> list[tuple[Row, int]]:
        return _recorded(rows)

    def of(self, items: Sequence[tuple[Row, int]]) -> str:
        length = [] if self.num_frames is None else [str(self.num_frames)]
        clips = (_what(row.clip_key(i), row.clips[i].audio) for row, i in items)
        return digest([self.network.fingerprint, *length, *clips])

    def tensors(
        self, items: Sequence[tuple[Row, int]], damage: Damage, told: Callable[[int], object]
    ) -> Iterator[tuple[str, Tensor]]:
        """Clips with as many frames go through the codec together, so none is padded to another's length."""
        codec = self.network.module
        by_frames: dict[int, list[tuple[str, np.ndarray]]] = {}
        held = 0.0
        for row, event in items:
            path, key = row.clips[event].audio, row.clip_key(event)
            assert path is not None
            try:
                samples = read_samples(
                    path, sample_rate=codec.sample_rate, audio_channels=codec.config["audio_channels"]
                )
                num_frames = self._frames(codec.num_frames(samples.shape[1]))
            except (OSError, ValueError) as error:
                damage.note(key, error)
                told(1)
                continue
            by_frames.setdefault(num_frames, []).append((key, samples))
            held += num_frames / codec.frame_rate
            if held > SECONDS_HELD:
                fullest = max(by_frames, key=lambda frames: frames * len(by_frames[frames]))
                held -= fullest * len(by_frames[fullest]) / codec.frame_rate
                yield from self._encoded(fullest, by_frames.pop(fullest), told)
        for num_frames, alike in sorted(by_frames.items()):
            yield from self._encoded(num_frames, alike, told)

    def _frames(self, own: int) -> int:
        """How many a clip gets that has so many of its own. ValueError when they are too few for it."""
        if self.num_frames is None:
            return own
        if own > self.num_frames + 1:  # one more is a last piece of a hop; the release cuts it too
            raise ValueError(f"it lasts {own} frames, more than the {self.num_frames} of --num_frames")
        return self.num_frames

    def _encoded(
        self, num_frames: int, alike: Sequence[tuple[str, np.ndarray]], told: Callable[[int], object]
    ) -> Iterator[tuple[str, Tensor]]:
        codec = self.network.module
        size = max(1, int(SECONDS_PER_BATCH * codec.frame_rate / num_frames))
        for first in range(0, len(alike), size):
            batch = alike[first : first + size]
            latents = encode(codec, [samples for _, samples in batch], num_frames)
            for (key, _), one in zip(batch, latents, strict=True):
                yield f"latents:{key}", store.half(one)
            told(len(batch))


@torch.no_grad()
def encode(codec: Any, clips: Sequence[Float[np.ndarray, "A S"]], num_frames: int) -> Float[Tensor, "N T Z"]:
    """Latents of clips that are filled with silence to so many frames, or cut to them."""
    room = num_frames * codec.hop
    filled = [np.pad(samples[:, :room], ((0, 0), (0, max(0, room - samples.shape[1])))) for samples in clips]
    return codec.encode(torch.from_numpy(np.stack(filled)).to(codec.device)).cpu()


class Teacher:
    """The text encoder's states, one per caption, however many events it stands for."""

    kind, unit, per_shard = "teacher", "caption", CAPTIONS_PER_SHARD

    def __init__(self, network: Network, num_tokens: int):
        self.network, self.num_tokens = network, num_tokens

    def notes(self) -> Mapping[str, Any]:
        return {"text_encoder": self.network.fingerprint, "num_tokens": self.num_tokens}

    def items(self, rows: Sequence[Row]) -> list[str]:
        return sorted({event.caption for row in rows for event in row.storyline.events})

    def of(self, items: Sequence[str]) -> str:
        return digest([self.network.fingerprint, str(self.num_tokens), *items])

    def tensors(
        self, items: Sequence[str], damage: Damage, told: Callable[[int], object]
    ) -> Iterator[tuple[str, Tensor]]:
        for first in range(0, len(items), CAPTIONS_PER_BATCH):
            batch = items[first : first + CAPTIONS_PER_BATCH]
            for caption, states in zip(batch, self.network.module.encode(batch, self.num_tokens).cpu(), strict=True):
                yield f"teacher:{store.caption_key(caption)}", store.half(states)
            told(len(batch))


class Features:
    """The audio encoder's, one for each recording that an instruction holds, however many rows hold it."""

    kind, unit, per_shard = "features", "recording", RECORDINGS_PER_SHARD

    def __init__(self, network: Network, num_listening: int):
        self.network, self.num_listening = network, num_listening

    def notes(self) -> Mapping[str, Any]:
        return {"audio_encoder": self.network.fingerprint, "num_listening": self.num_listening}

    def items(self, rows: Sequence[Row]) -> list[tuple[str, Path]]:
        heard = {row.heard_key: row.instruction.audio for row in rows if row.heard_key is not None}
        return sorted((key, path) for key, path in heard.items() if path is not None)

    def of(self, items: Sequence[tuple[str, Path]]) -> str:
        return digest([self.network.fingerprint, str(self.num_listening), *(_what(key, path) for key, path in items)])

    def tensors(
        self, items: Sequence[tuple[str, Path]], damage: Damage, told: Callable[[int], object]
    ) -> Iterator[tuple[str, Tensor]]:
        encoder = self.network.module
        for key, path in items:
            try:
                samples = read_samples(path, sample_rate=encoder.sample_rate, audio_channels=1)[0]
            except (OSError, ValueError) as error:
                damage.note(key, error)
            else:
                yield f"features:{key}", store.half(encoder.features(samples, self.num_listening).cpu())
            told(1)


class ClipFeatures:
    """What the audio encoder hears in each clip, as means over time: a teacher in the text encoder's place."""

    kind, unit, per_shard = "clip_features", "clip", CLIPS_PER_SHARD

    def __init__(self, network: Network, num_tokens: int):
        self.network, self.num_tokens = network, num_tokens

    def notes(self) -> Mapping[str, Any]:
        width = self.network.module.width
        return {"clip_encoder": self.network.fingerprint, "num_clip_tokens": self.num_tokens, "clip_width": width}

    def items(self, rows: Sequence[Row]) -> list[tuple[Row, int]]:
        return _recorded(rows)

    def of(self, items: Sequence[tuple[Row, int]]) -> str:
        clips = (_what(row.clip_key(i), row.clips[i].audio) for row, i in items)
        return digest([self.network.fingerprint, str(self.num_tokens), *clips])

    def tensors(
        self, items: Sequence[tuple[Row, int]], damage: Damage, told: Callable[[int], object]
    ) -> Iterator[tuple[str, Tensor]]:
        for row, event in items:
            path, key = row.clips[event].audio, row.clip_key(event)
            assert path is not None
            try:
                samples = read_samples(path, sample_rate=self.network.module.sample_rate, audio_channels=1)[0]
            except (OSError, ValueError) as error:
                damage.note(key, error)
            else:
                yield f"clip_features:{key}", store.half(self._means(samples))
            told(1)

    @torch.no_grad()
    def _means(self, samples: np.ndarray) -> Float[Tensor, "M E"]:
        """Over the clip's own time: what the encoder makes of the silence that fills its last window is left out."""
        encoder = self.network.module
        windows = encoder.windows(torch.as_tensor(samples, device=encoder.device))
        frames = encoder(encoder.log_mel(windows)).flatten(0, 1).float()  # [T E]
        own = frames[: max(1, round(len(samples) / encoder.sample_rate * encoder.frame_rate))]
        return torch.nn.functional.adaptive_avg_pool1d(own.mT[None], self.num_tokens)[0].mT.cpu()


def _recorded(rows: Sequence[Row]) -> list[tuple[Row, int]]:
    """The events that have a recording of their own."""
    return [(row, event) for row in rows for event in range(len(row.clips)) if row.clips[event].audio]


def _what(key: str, recording: Path | None) -> str:
    """What a recording's tensors depend on, apart from the network. One that was replaced has another size or time."""
    assert recording is not None
    try:
        status = recording.stat()
    except OSError:
        return json.dumps([key, str(recording), "absent"])
    return json.dumps([key, str(recording), status.st_size, status.st_mtime_ns])


def digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
