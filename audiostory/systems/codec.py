"""True clips through a codec: the most that any model with that codec can sound like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from audiostory import sound
from audiostory.model.codec import Codec
from audiostory.systems.models import checked_device
from audiostory.weights.origins import Origin


def through_codec(
    folder: Path, clips: Sequence[tuple[Path, Path]], *, device: str | None = None, progress: str = ""
) -> None:
    """Encodes and decodes each clip, from one file to the other, at the codec's rate and as long as it was.

    The codec is that of a model folder, a stage's export or any that `Origin` reads. Files that are there stay, so let
    each codec have a folder of its own (`telling.keep_settings` guards one); the codec is loaded when one is missing.
    `progress` names the bar, if any. ValueError for a folder without a codec, or a clip that cannot be read.
    """
    left = [(source, target) for source, target in clips if not target.is_file()]
    if not left:
        return
    device = checked_device(device)
    codec = Origin(folder).read("codec").to(device)
    done = len(clips) - len(left)
    for source, target in tqdm(left, desc=progress, unit="clip", initial=done, total=len(clips), disable=not progress):
        sound.write(target, _through(codec, sound.read(source)))


@torch.no_grad()
def _through(codec: Codec, clip: sound.Waveform) -> sound.Waveform:
    clip = sound.resample(clip, codec.sample_rate)
    samples = torch.from_numpy(clip.samples).mean(0).expand(1, codec.config["audio_channels"], -1)
    decoded = codec.decode(codec.encode(samples.to(codec.device)), num_samples=clip.num_samples)[0]
    return sound.Waveform(samples=decoded.cpu().numpy(), sample_rate=codec.sample_rate)
