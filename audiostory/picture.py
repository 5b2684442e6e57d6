"""A story at a glance: captions, waveform and spectrogram, with a mark where each event begins. No torch here."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audiostory.sound import Waveform
from audiostory.story import Event

COLUMNS = 1600  # of the envelope and the spectrogram: about two per pixel
BANDS = 160
LOWEST_HZ = 50.0
RANGE_DB = 70.0
SHADES = ("#4c78a8", "#f58518")


def draw(path: str | Path, waveform: Waveform, events: Sequence[Event], title: str) -> None:
    """Writes a PNG (or what the suffix of `path` says). `events` stand in their order, with their starts."""
    from matplotlib.figure import Figure  # heavy, and not needed to tell a story

    heading = textwrap.wrap(title, 105, max_lines=6, placeholder=" ...")
    captions = [line for number, event in enumerate(events, 1) for line in _caption(number, event)]
    words_height = 0.23 * len(heading) + 0.2 * len(captions) + 0.2
    figure = Figure(figsize=(12, words_height + 5.2), layout="constrained")
    words, wave, bands = figure.subplots(3, 1, height_ratios=[words_height, 1.8, 3.4])
    words.set_axis_off()
    plain: dict[str, Any] = {"transform": words.transAxes, "in_layout": False, "parse_math": False}
    words.text(0, 1, "\n".join(heading), va="top", fontsize=11, weight="bold", **plain)
    words.text(0, 0, "\n".join(captions), va="bottom", fontsize=9.5, family="monospace", **plain)
    seconds = waveform.seconds
    _draw_wave(wave, waveform, seconds)
    _draw_bands(bands, waveform, seconds)
    for number, event in enumerate(events, 1):
        shade = SHADES[number % 2]
        wave.axvspan(event.start, event.start + event.seconds, color=shade, alpha=0.18, lw=0)
        wave.text(event.start, 1.03, f" {number}", transform=wave.get_xaxis_transform(), fontsize=10, weight="bold")
        for axes, color in ((wave, "black"), (bands, "white")):
            axes.axvline(event.start, color=color, lw=0.8, alpha=0.8)
    figure.savefig(path, dpi=110)


def spectrogram(waveform: Waveform) -> np.ndarray:
    """The spectrogram alone as an image [bands, columns, 3], 8 bits, low frequencies at the bottom."""
    from matplotlib import colormaps

    _, decibels = _spectrogram(waveform)
    return (255 * colormaps["magma"](1 + decibels[::-1] / RANGE_DB)[..., :3]).astype(np.uint8)


def _caption(number: int, event: Event) -> list[str]:
    label = f"{number:2d}. {event.start:6.1f} s - {event.start + event.seconds:5.1f} s  "
    return textwrap.wrap(event.caption, 125, initial_indent=label, subsequent_indent=" " * len(label))


def _draw_wave(axes, waveform: Waveform, seconds: float) -> None:
    mono = waveform.samples.mean(axis=0)
    edges = np.linspace(0, len(mono), min(COLUMNS, len(mono)), endpoint=False).astype(int)
    times = np.linspace(0, seconds, len(edges), endpoint=False)
    low, high = np.minimum.reduceat(mono, edges), np.maximum.reduceat(mono, edges)
    axes.fill_between(times, low, high, color="#333333", lw=0, step="post")
    loudest = max(1e-3, float(np.abs(mono).max()))
    axes.set(xlim=(0, seconds), ylim=(-1.1 * loudest, 1.1 * loudest), ylabel="amplitude")
    axes.tick_params(labelbottom=False)


def _draw_bands(axes, waveform: Waveform, seconds: float) -> None:
    hertz, decibels = _spectrogram(waveform)
    axes.imshow(
        decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, BANDS), cmap="magma", vmin=-RANGE_DB, vmax=0
    )
    shown = [tick for tick in (100, 200, 500, 1000, 2000, 5000, 10000, 20000) if tick < hertz[-1]]
    places = np.interp(np.log(shown), np.log(hertz), np.arange(BANDS) + 0.5)
    axes.set_yticks(places, [f"{tick / 1000:g} kHz" if tick >= 1000 else f"{tick} Hz" for tick in shown])
    axes.set(xlim=(0, seconds), xlabel="seconds", ylabel="frequency")


def _spectrogram(waveform: Waveform) -> tuple[np.ndarray, np.ndarray]:
    """Band centres in Hz, log-spaced to half the sample rate, and levels [bands, columns] in dB below the loudest."""
    mono = waveform.samples.mean(axis=0)
    length = 2 ** round(np.log2(0.05 * waveform.sample_rate))  # windows of about 50 ms
    padded = np.pad(mono, (length // 2, length))
    begins = np.linspace(0, len(mono), min(COLUMNS, max(1, 8 * len(mono) // length)), endpoint=False).astype(int)
    window = np.hanning(length)
    power = np.stack([np.abs(np.fft.rfft(window * padded[begin : begin + length])) ** 2 for begin in begins], axis=1)
    hertz = np.geomspace(LOWEST_HZ, waveform.sample_rate / 2, BANDS)
    bins = np.round(hertz * length / waveform.sample_rate).astype(int)
    levels = power[bins]  # [bands, columns]
    return hertz, 10 * np.log10(levels / max(levels.max(), 1e-12) + 10 ** (-RANGE_DB / 10))
