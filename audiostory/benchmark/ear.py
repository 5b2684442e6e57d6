"""The ear: a small convolutional network that says what sounds, where, and in which register.

It learns from ground-truth clips of the sound world alone and never meets the model, so that what it hears in a told
story is evidence. Whole clips go in, of any length. It hears no loudness, and what lies 60 dB below a clip's peak is
silence to it. Hiss, mixed into what it learns from, keeps it from leaning on faint traces that no codec would keep.

What it goes by, 128 features of a clip, also places the clip among others, as the published networks do for FAD and FD.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from audiostory import sound
from audiostory.benchmark.items import PITCHLESS, Heard, TrueEvent
from audiostory.disk import write_text

SAMPLE_RATE = 16_000
N_FFT, HOP, NUM_MELS = 1024, 320, 64  # 50 frames per second
RANGE = 6.0  # powers of ten, from the loudest band and frame of a clip down to silence
QUIETEST = -1.0  # powers of ten; a clip whose loudest band has less is not turned up any further
QUESTIONS = ("name", "place", "register")
UNASKED = -100  # the target that cross_entropy skips
CHANNELS = (24, 48, 96, 128)
NUM_FEATURES = 128
BUNDLED = Path(__file__).parents[1] / "assets" / "ear"  # taught on 3,000 clips of the training split


class Ear(nn.Module):
    """Log-mel frames -> convolutions that halve time and bands -> mean and maximum over time -> a head per question."""

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.labels = {question: list(labels[question]) for question in QUESTIONS}
        sizes = (5, *[3] * (len(CHANNELS) - 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, size, stride=2, padding=size // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o, size in zip((1, *CHANNELS), CHANNELS, sizes, strict=False)
        )
        features = 2 * CHANNELS[-1] * NUM_MELS // 2 ** len(CHANNELS)
        self.hidden = nn.Sequential(nn.Linear(features, NUM_FEATURES), nn.ReLU(), nn.Dropout(0.2))
        self.heads = nn.ModuleDict(
            {question: nn.Linear(NUM_FEATURES, len(names)) for question, names in self.labels.items()}
        )

    def forward(self, mels: Float[Tensor, "S F K"], frames: Tensor) -> dict[str, Float[Tensor, "S O"]]:
        """Logits per question for F frames of K bands, of which row s has `frames[s]` valid ones."""
        return self.answer(self.features(mels, frames))

    def features(self, mels: Float[Tensor, "S F K"], frames: Tensor) -> Float[Tensor, "S D"]:
        """What the answers are drawn from, NUM_FEATURES of each clip, none below 0; frames as for `forward`.

        What lies behind them does not matter: before every convolution it is zeroed, as the edge of a lone clip is.
        """
        x = mels[:, None].contiguous(memory_format=torch.channels_last)  # a third faster on CPUs
        for block in self.blocks:
            x = block(x * _valid(frames, x.shape[2])[:, None, :, None])
            frames = (frames + 1) // 2
        x = x.transpose(1, 2).flatten(2)  # [S F/16 channels*K/16]
        valid = _valid(frames, x.shape[1])[..., None]
        mean = (x * valid).sum(1) / frames[:, None]
        highest = x.masked_fill(~valid, float("-inf")).amax(1)
        return self.hidden(torch.cat([mean, highest], dim=-1))

    def answer(self, features: Float[Tensor, "S D"]) -> dict[str, Float[Tensor, "S O"]]:
        return {question: head(features) for question, head in self.heads.items()}

    @torch.inference_mode()
    def hear(self, files: Sequence[Path], batch_size: int = 32, progress: str = "") -> list[Heard]:
        """Listens to clips of any rate; the answers stand in the order of the files. `progress` names the bar, if any.

        FileNotFoundError or ValueError, naming the file, for one that cannot be read.
        """
        self.eval()
        heard: dict[int, Heard] = {}
        order = sorted(range(len(files)), key=lambda i: _size(files[i]))  # alike lengths need little padding
        with tqdm(total=len(files), desc=progress, unit="clip", disable=not progress) as bar:
            for chosen in (order[start : start + batch_size] for start in range(0, len(order), batch_size)):
                features = self.features(*_padded([log_mel(read_mono(files[i])) for i in chosen]))
                answers = self.answer(features)
                for row, i in enumerate(chosen):
                    words = {
                        question: names[answers[question][row].argmax()] for question, names in self.labels.items()
                    }
                    heard[i] = Heard(**words, features=features[row].numpy(), logits=answers["name"][row].numpy())
                bar.update(len(chosen))
        return [heard[i] for i in range(len(files))]

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Writes the weights and a JSON page of `facts` (what it was trained on, how well it hears held-out clips)."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights, page = folder / "ear.safetensors", folder / "ear.json"
        page.unlink(missing_ok=True)  # the page comes last: with it an ear is whole
        save_file(self.state_dict(), weights)
        write_text(page, json.dumps({"labels": self.labels, **facts}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path = BUNDLED) -> tuple[Ear, dict[str, Any]]:
        """The ear saved in `folder` (by default the one that comes with the package) and the facts saved with it.

        ValueError when there is none, or a damaged one.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not (folder / "ear.json").is_file():
            raise ValueError(f"no ear in {folder}; evaluate/train_ear.py trains one in minutes")
        try:
            page = json.loads((folder / "ear.json").read_text(encoding="utf-8"))
            ear = cls(page.pop("labels"))
            ear.load_state_dict(load_file(folder / "ear.safetensors"))
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise ValueError(f"the ear in {folder} is damaged ({error!r}); train it again") from error
        return ear.eval(), page


def log_mel(samples: np.ndarray) -> Float[Tensor, "F K"]:
    """Log-mel frames of a mono clip at 16 kHz: 1 where it is loudest, 0 for 60 dB below that and less."""
    spectrum = torch.stft(
        torch.as_tensor(samples, dtype=torch.float32),
        N_FFT,
        HOP,
        window=torch.hann_window(N_FFT),
        pad_mode="constant",
        return_complex=True,
    )
    mels = (_mel_bank() @ spectrum.abs().square()).clamp(min=1e-12).log10()
    return ((mels - mels.amax().clamp(min=QUIETEST)) / RANGE + 1).clamp(min=0).T.contiguous()


@cache
def _mel_bank() -> Float[Tensor, "K Q"]:
    from librosa.filters import mel

    return torch.as_tensor(mel(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=NUM_MELS, fmin=40))


def read_mono(file: Path) -> np.ndarray:
    """A clip as the ear wants it: mono, 16 kHz, float32."""
    waveform = sound.read(file)
    mono = sound.Waveform(samples=waveform.samples.mean(0), sample_rate=waveform.sample_rate)
    return sound.resample(mono, SAMPLE_RATE).samples[0]


def _size(file: Path) -> int:
    """As good as the length for putting like clips together; a missing file is told of when it is read."""
    return file.stat().st_size if file.is_file() else 0


def _valid(frames: Tensor, num: int) -> Bool[Tensor, "S F"]:
    return torch.arange(num, device=frames.device) < frames[:, None]


def _padded(mels: Sequence[Tensor]) -> tuple[Float[Tensor, "S F K"], Tensor]:
    """The clips in one tensor, and the number of frames of each."""
    return nn.utils.rnn.pad_sequence(list(mels), batch_first=True), torch.tensor([len(mel) for mel in mels])


@dataclass(frozen=True, kw_only=True)
class EarSettings:
    """How an ear is trained. `hiss` is the loudest that the noise mixed into a clip may be, as `log_mel` counts."""

    epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 3e-3
    hiss: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"an ear needs at least 1 epoch, got {self.epochs}; {type(self).epochs} are usual")


def train(
    events: Sequence[TrueEvent], held_out: Sequence[TrueEvent], settings: EarSettings
) -> tuple[Ear, dict[str, Any]]:
    """An ear taught on `events` and its facts: settings, number of clips, accuracy per question on `held_out`.

    Spectrograms of all clips are held in memory, 45 MB per hour of sound.
    """
    labels = {question: sorted({getattr(event, question) for event in events} - {PITCHLESS}) for question in QUESTIONS}
    mels = [log_mel(read_mono(_audio(event))).half() for event in tqdm(events, desc="reading clips", unit="clip")]
    targets = {question: torch.tensor([_target(event, question, labels) for event in events]) for question in QUESTIONS}
    torch.manual_seed(settings.seed)
    ear = Ear(labels).train()
    batches = list(_batches([len(mel) for mel in mels], settings))
    optimizer = torch.optim.AdamW(ear.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=len(batches))
    with tqdm(batches, desc="training the ear", unit="batch") as bar:
        for chosen in bar:
            answers = ear(*_padded([_with_hiss(mels[i].float(), settings.hiss) for i in chosen]))
            loss = torch.stack([_error(answers[question], targets[question][chosen]) for question in QUESTIONS]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    facts = {"settings": asdict(settings), "clips": len(events), "held_out_clips": len(held_out)}
    return ear.eval(), facts | {"held_out_accuracy": accuracy(ear, held_out)}


def accuracy(ear: Ear, events: Sequence[TrueEvent]) -> dict[str, float]:
    """The share of right answers per question; register is asked of pitched sounds only."""
    heard = ear.hear([_audio(event) for event in events], progress="testing the ear")
    shares = {}
    for question in QUESTIONS:
        pairs = [(getattr(h, question), getattr(e, question)) for h, e in zip(heard, events, strict=True)]
        pairs = [pair for pair in pairs if pair[1] != PITCHLESS]
        shares[question] = sum(answer == truth for answer, truth in pairs) / max(1, len(pairs))
    return shares


def _audio(event: TrueEvent) -> Path:
    if event.audio is None:
        raise ValueError(
            "this corpus was written without audio, so there is nothing to hear; write it again with "
            "scripts/make_soundworld.py, into a new folder and without --no-audio"
        )
    return event.audio


def _target(event: TrueEvent, question: str, labels: Mapping[str, Sequence[str]]) -> int:
    answer = getattr(event, question)
    return UNASKED if answer == PITCHLESS else labels[question].index(answer)


def _batches(lengths: Sequence[int], settings: EarSettings) -> Iterator[list[int]]:
    """Clips of like length, with other neighbours and in another order each epoch."""
    rng = np.random.default_rng(settings.seed)
    for _ in range(settings.epochs):
        order = np.argsort(np.array(lengths) + rng.uniform(0, 50, len(lengths)))
        for start in rng.permutation(np.arange(0, len(lengths), settings.batch_size)):
            yield order[start : start + settings.batch_size].tolist()


def _with_hiss(mel: Float[Tensor, "F K"], loudest: float) -> Float[Tensor, "F K"]:
    """The clip in a noise of random level and colour, added in power as sounds are."""
    scale = RANGE * float(np.log(10))
    level, tilt = torch.rand(()) * loudest, (torch.rand(()) - 0.5) * torch.linspace(-0.3, 0.3, mel.shape[1])
    hiss = level + tilt + 0.03 * torch.randn_like(mel)
    return torch.logaddexp(scale * mel, scale * hiss).div(scale).clamp(min=0)


def _error(logits: Float[Tensor, "S O"], targets: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy over the rows that are asked; 0 when none is."""
    return functional.cross_entropy(logits, targets, ignore_index=UNASKED, reduction="sum") / len(targets)
