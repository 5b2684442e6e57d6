"""VGGish: 128 features for each 0.96 s of a recording, as FAD is computed from them (audioldm_eval).

The layout is torchvggish's, which carries Google's weights. As in the tool, the last activation is left out and so are
PCA and quantisation. Two things are ours. A recording too short for one patch is filled up with silence where the tool
drops it: 15600 samples, for 96 frames of 25 ms, 10 ms apart, are a little more than 0.96 s. And files of floats are
read as they are; the tool reads every file as 16-bit whole numbers, which makes silence of a WAV of floats.
Values with the published weights are unchecked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from audiostory.benchmark.embedders import checkpoints
from audiostory.benchmark.embedders.recordings import Preparation

PUBLISHED = checkpoints.Published(
    file="vggish-10086976.pth", project="release v0.1 of github.com/harritaylor/torchvggish", megabytes=289
)
SAMPLE_RATE = 16_000
WINDOW, HOP, N_FFT = 400, 160, 512  # 25 ms and 10 ms
NUM_FRAMES, NUM_MELS = 96, 64
LOWEST, HIGHEST = 125.0, 7500.0  # Hz
OFFSET = 0.01  # of the magnitudes, before the logarithm
SHORTEST = WINDOW + (NUM_FRAMES - 1) * HOP
AT_ONCE = 64  # patches


class VggishNetwork(nn.Module):
    """Six convolutions and three layers; `width` and `hidden` are smaller in tests."""

    def __init__(self, width: int = 64, hidden: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for size in (width, 0, 2 * width, 0, 4 * width, 4 * width, 0, 8 * width, 8 * width, 0):
            if size:
                layers += [nn.Conv2d(channels, size, 3, padding=1), nn.ReLU(inplace=True)]
                channels = size
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        pooled = channels * (NUM_FRAMES // 16) * (NUM_MELS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(pooled, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, 128),
        )

    def forward(self, patches: Float[Tensor, "P 96 64"]) -> Float[Tensor, "P 128"]:
        maps = self.features(patches[:, None])  # [P channels 6 4]
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # channels last, as the first weights had them


class Vggish:
    """The embedder. Each recording gives one vector per patch, {"embedding": [P 128]}."""

    name = "vggish"
    preparation = Preparation(sample_rate=SAMPLE_RATE, shortest=SHORTEST)
    settings = {"arithmetic": 1}  # noqa: RUF012 - raised by whoever changes what is computed here

    def __init__(self, network: VggishNetwork, version: str, device: torch.device | str = "cpu") -> None:
        """`version` is the digest of the weights."""
        self.network, self.version, self.device = network.to(device).eval(), version, device

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Vggish:
        """From the published file, or the folder it is in. ValueError that says what to fetch, or what is wrong."""
        found = PUBLISHED.find(path)
        with torch.device("meta"):
            network = VggishNetwork()
        checkpoints.fill(network, checkpoints.read(found), found)
        return cls(network, checkpoints.digest([found]), device)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Float[np.ndarray, W]]) -> list[dict[str, np.ndarray]]:
        patches = [patch(log_mel(clip)) for clip in clips]
        heard = [self.network(some.to(self.device)).cpu() for some in torch.cat(patches).split(AT_ONCE)]
        each = torch.cat(heard).split([len(own) for own in patches])
        return [{"embedding": vectors.numpy()} for vectors in each]


def log_mel(samples: Float[np.ndarray, W]) -> Float[np.ndarray, "F 64"]:
    """Frames of log magnitudes in mel bands; only whole frames, so a clip of fewer than 400 samples has none."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), WINDOW)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))
    return np.log(np.abs(np.fft.rfft(frames * window, N_FFT)) @ mel_bank() + OFFSET)


def patch(frames: Float[np.ndarray, "F 64"]) -> Float[Tensor, "P 96 64"]:
    """Frames cut into patches, one behind the other; what is left over at the end is dropped."""
    num = len(frames) // NUM_FRAMES
    return torch.from_numpy(frames[: num * NUM_FRAMES]).float().reshape(num, NUM_FRAMES, NUM_MELS)


@cache
def mel_bank() -> Float[np.ndarray, "257 64"]:
    """Triangles of height 1, whose flanks are straight on the mel scale (librosa's are on that of Hertz)."""
    bins = _mel(np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1))[:, None]
    edges = np.linspace(_mel(LOWEST), _mel(HIGHEST), NUM_MELS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bank = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(min=0)
    bank[0] = 0  # a constant is no sound
    return bank


def _mel(hertz: float | np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(hertz) / 700)
