"""Writes data/tiny again: eight short sounds of the sound world, manifests of every kind about them, tokenizers, and
what the tiny model's fresh networks make of them. So that every stage can be tried from a clean checkout in seconds.

    python scripts/make_tiny_data.py data/tiny
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout works before it is installed

NAMES = ("dog", "bell", "rain", "knock", "owl", "beep", "horn", "frog")
SECONDS, FADE = 1.2, 0.2
KINDS = ("clips", "stories", "continuations", "questions")
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="replaced whole")
    folder = parser.parse_args(argv).folder
    if folder.exists() and not (folder / "clips.jsonl").is_file():
        print(f"make_tiny_data.py: {folder} holds something else; name another folder", file=sys.stderr)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    write_manifests(folder)
    encode(folder)
    return 0


def write_manifests(folder: Path) -> None:
    clips = {name: _sound(name) for name in NAMES}
    for name, samples in clips.items():
        _write(folder / f"audio/{name}.flac", [samples])
    followed = [(name, NAMES[(place + 3) % len(NAMES)]) for place, name in enumerate(NAMES)]
    for one, other in followed:
        _write(folder / f"audio/{one}_{other}.flac", [clips[one], clips[other]])
    heard = {pair: f"audio/{pair[0]}_{pair[1]}.flac" for pair in followed}
    rows: dict[str, list[dict[str, Any]]] = {
        "clips": [_story(f"clip-{name}", [name], f"only {name}") for name in NAMES],
        "stories": [
            _story(f"story-{a}", [a, b, a][: 2 + n % 2], f"first {a}, then {b}") for n, (a, b) in enumerate(followed)
        ],
        "continuations": [
            {**_story(f"more-{a}", [b], "the last sound again"), "heard": heard[a, b]} for a, b in followed
        ],
        "questions": [
            {"id": f"ask-{a}", "instruction": "What comes last?", "heard": heard[a, b], "answer": b}
            for a, b in followed
        ],
    }
    for kind, lines in rows.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def encode(folder: Path) -> None:
    """Tokenizers, latents, teacher states and features, by the networks that a fresh tiny model begins with."""
    import encode_latents
    import make_tokenizer

    from audiostory import composing
    from audiostory.training import config
    from audiostory.training.components import Components

    manifests = [str(folder / f"{kind}.jsonl") for kind in KINDS]
    sizes = ["--num_semantic", "4", "--num_residual", "16", "--vocab_size", "320", "--text_vocab_size", "300"]
    assert make_tokenizer.main(["--manifest", *manifests, "--output", str(folder / "tokenizers"), *sizes]) == 0
    overrides = ["stage=stage3", "model=tiny", "weights=random", f"model.tokenizers={folder}/tokenizers"]
    components = Components(composing.build(config.RunConfig, config.compose(CONFIGS, overrides)))
    with tempfile.TemporaryDirectory() as networks:
        for name in ("codec", "text_encoder", "audio_encoder"):
            components.fresh(name).save_pretrained(Path(networks) / name)
        for kind in KINDS:
            heard, told = kind in ("continuations", "questions"), kind != "questions"
            given = ["--codec", "--text_encoder", "--clip_encoder"] * told + ["--audio_encoder"] * heard
            command = [str(folder / f"{kind}.jsonl"), "--output", str(folder / "latents" / kind)]
            options = [word for option in given for word in (option, networks)]
            assert encode_latents.main([*command, *options, "--num_tokens", "4", "--num_listening", "4"]) == 0


def _story(identity: str, names: Sequence[str], instruction: str) -> dict[str, Any]:
    from audiostory.soundworld.sounds import Sound
    from audiostory.soundworld.stories import canonical_caption

    events = [
        {
            "caption": canonical_caption(Sound(name=name)),
            "start": round(place * SECONDS, 1),
            "seconds": SECONDS,
            "story_detail": "it happens",
            "sound_detail": "in a small room",
            "audio": f"audio/{name}.flac",
        }
        for place, name in enumerate(names)
    ]
    total = round(SECONDS * len(names), 1)
    summary = ", then ".join(names)
    return {"id": identity, "instruction": instruction, "total_seconds": total, "summary": summary, "events": events}


def _sound(name: str) -> np.ndarray:
    from audiostory.soundworld.sounds import CLASSES, Cast, Sound, render

    pitches: dict[str, Any] = {name: "middle" for name, entry in CLASSES.items() if entry.has_pitch}
    return render(Sound(name=name), Cast(place="room", pitches=pitches, seed=0), SECONDS, seed=0)


def _write(path: Path, clips: Sequence[np.ndarray]) -> None:
    from audiostory.sound import Waveform, crossfade, write

    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, crossfade([Waveform(samples=clip[None], sample_rate=16000) for clip in clips], FADE))


if __name__ == "__main__":
    sys.exit(main())
