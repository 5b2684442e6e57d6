"""PANNs' Cnn14: one vector of 2048 features and the logits of 527 AudioSet classes for a whole recording.

FD, KL and the inception score are computed from them. The layout is audioset_tagging_cnn's; there are weights for 16
and for 32 kHz, each with its own spectrogram. As audioldm_eval feeds it: the first channel, its mean taken away, at
least 32000 samples. One vector averages a long story away, so score its events too.
Values with the published weights are unchecked here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from audiostory.benchmark.embedders import checkpoints
from audiostory.benchmark.embedders.recordings import Preparation

NUM_MELS, LOWEST = 64, 50.0
QUIETEST = 1e-10  # of the power in a band, before the logarithm
CHANNELS = (64, 128, 256, 512, 1024, 2048)
NUM_CLASSES = 527
SHORTEST = 32_000
COUNTERS = r"\.num_batches_tracked$"  # of no use outside training; files of old lack them


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """The spectrogram at one rate, and the weights that were trained with it."""

    sample_rate: int
    n_fft: int
    hop: int
    highest: float
    published: checkpoints.Published


PROJECT = "zenodo.org/records/3987831 (github.com/qiuqiangkong/audioset_tagging_cnn)"
FRONT_ENDS = {
    16_000: FrontEnd(
        sample_rate=16_000,
        n_fft=512,
        hop=160,
        highest=8000.0,
        published=checkpoints.Published(file="Cnn14_16k_mAP=0.438.pth", project=PROJECT, megabytes=325),
    ),
    32_000: FrontEnd(
        sample_rate=32_000,
        n_fft=1024,
        hop=320,
        highest=14_000.0,
        published=checkpoints.Published(file="Cnn14_mAP=0.431.pth", project=PROJECT, megabytes=327),
    ),
}


class ConvBlock(nn.Module):
    """Two convolutions; the caller pools."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Float[Tensor, "B C F K"]) -> Float[Tensor, "B O F K"]:
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(x)))


class Cnn14(nn.Module):
    """Log-mel frames -> six blocks -> mean over bands, mean plus maximum over time -> features -> logits."""

    def __init__(self, channels: Sequence[int] = CHANNELS, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(NUM_MELS)
        for number, (size, out) in enumerate(zip((1, *channels), channels, strict=False), start=1):
            self.add_module(f"conv_block{number}", ConvBlock(size, out))
        self.num_blocks = len(channels)
        self.fc1 = nn.Linear(channels[-1], channels[-1])
        self.fc_audioset = nn.Linear(channels[-1], num_classes)

    def forward(self, mels: Float[Tensor, "B F 64"]) -> tuple[Float[Tensor, "B 2048"], Float[Tensor, "B 527"]]:
        """Features, and logits that no sigmoid has gone over."""
        x = self.bn0(mels.transpose(1, 2)[..., None]).permute(0, 3, 2, 1)  # [B 1 F 64]
        for number in range(1, self.num_blocks + 1):
            x = self.get_submodule(f"conv_block{number}")(x)
            if number < self.num_blocks:
                x = F.avg_pool2d(x, 2)
        x = x.mean(3)
        features = F.relu_(self.fc1(x.amax(2) + x.mean(2)))
        return features, self.fc_audioset(features)


class Panns:
    """The embedder. Each recording gives {"embedding": [1 2048], "logits": [1 527]}."""

    settings = {"arithmetic": 1}  # noqa: RUF012 - raised by whoever changes what is computed here

    def __init__(self, network: Cnn14, version: str, sample_rate: int, device: torch.device | str = "cpu") -> None:
        """`version` is the digest of the weights. ValueError for a rate that Cnn14 was never trained at."""
        self.front_end = front_end(sample_rate)
        self.name = f"panns-cnn14-{sample_rate // 1000}k"
        self.preparation = Preparation(sample_rate=sample_rate, channel="first", centred=True, shortest=SHORTEST)
        self.network, self.version, self.device = network.to(device).eval(), version, device

    @classmethod
    def load(cls, path: str | Path, sample_rate: int, device: torch.device | str = "cpu") -> Panns:
        """From the published file of that rate, or the folder it is in. ValueError that says what to fetch, or what is
        wrong; weights that were trained with another spectrogram are found by the filters which they bring."""
        front = front_end(sample_rate)
        found = front.published.find(path)
        tensors = checkpoints.read(found)
        check_filters(tensors, front, found)
        with torch.device("meta"):
            network = Cnn14()
        checkpoints.fill(network, {k: v for k, v in tensors.items() if k not in FILTERS}, found, optional=COUNTERS)
        return cls(network, checkpoints.digest([found]), sample_rate, device)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Float[np.ndarray, W]]) -> list[dict[str, np.ndarray]]:
        """Clips of one length are heard together; padding would be heard, so others are not."""
        alike = defaultdict(list)
        for place, clip in enumerate(clips):
            alike[len(clip)].append(place)
        heard: dict[int, dict[str, np.ndarray]] = {}
        for places in alike.values():
            samples = torch.from_numpy(np.stack([clips[place] for place in places])).to(self.device)
            embeddings, logits = (rows.cpu().numpy() for rows in self.network(log_mel(samples, self.front_end)))
            for row, place in enumerate(places):
                heard[place] = {"embedding": embeddings[row : row + 1], "logits": logits[row : row + 1]}
        return [heard[place] for place in range(len(clips))]


def front_end(sample_rate: int) -> FrontEnd:
    if sample_rate not in FRONT_ENDS:
        raise ValueError(f"Cnn14 hears at {' or '.join(map(str, FRONT_ENDS))} Hz, not at {sample_rate}; choose one")
    return FRONT_ENDS[sample_rate]


def log_mel(samples: Float[Tensor, "B W"], front: FrontEnd) -> Float[Tensor, "B F 64"]:
    """Decibels of the power in mel bands, 100 frames per second, the first and last centred on the ends."""
    window = torch.hann_window(front.n_fft, device=samples.device)
    spectrum = torch.stft(samples, front.n_fft, front.hop, window=window, pad_mode="reflect", return_complex=True)
    power = spectrum.abs().square().transpose(1, 2) @ mel_bank(front.sample_rate).to(samples)
    return 10 * power.clamp(min=QUIETEST).log10()


@cache
def mel_bank(sample_rate: int) -> Float[Tensor, "Q 64"]:
    from librosa.filters import mel

    front = FRONT_ENDS[sample_rate]
    bank = mel(sr=sample_rate, n_fft=front.n_fft, n_mels=NUM_MELS, fmin=LOWEST, fmax=front.highest)
    return torch.from_numpy(bank.T.copy())


# The published files hold the filters of their spectrogram, which torchlibrosa makes and does not train.
FILTERS = {
    "spectrogram_extractor.stft.conv_real.weight": lambda front: _fourier(front)[0],
    "spectrogram_extractor.stft.conv_imag.weight": lambda front: _fourier(front)[1],
    "logmel_extractor.melW": lambda front: mel_bank(front.sample_rate),
}


def check_filters(tensors: dict[str, Tensor], front: FrontEnd, path: Path) -> None:
    """ValueError unless each filter of the file is, to a thousandth, what `log_mel` computes with."""
    for name, make in FILTERS.items():
        expected, given = make(front), tensors.get(name)
        if given is None or given.shape != expected.shape:
            found = "none" if given is None else f"one of shape {list(given.shape)}"
            raise ValueError(
                f"{path} is not Cnn14 for {front.sample_rate} Hz: its filter {name} should have the shape "
                f"{list(expected.shape)}, it has {found}; give {front.published.file}"
            )
        if (given - expected).abs().max() > 1e-3 * expected.abs().max():
            raise ValueError(
                f"{path}: the filter {name} is another than Cnn14's at {front.sample_rate} Hz; "
                f"give {front.published.file} as it is published"
            )


def _fourier(front: FrontEnd) -> tuple[Float[Tensor, "Q 1 N"], Float[Tensor, "Q 1 N"]]:
    """The windowed Fourier transform as filters: cosines, and sines downwards."""
    places = np.arange(front.n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi / front.n_fft * places)
    turns = 2 * np.pi / front.n_fft * np.outer(np.arange(front.n_fft // 2 + 1), places)
    cosines, sines = window * np.cos(turns), -window * np.sin(turns)
    return torch.from_numpy(cosines[:, None]).float(), torch.from_numpy(sines[:, None]).float()
