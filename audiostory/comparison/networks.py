"""The published networks that a suite asks for, from where the settings say they lie. Nothing is fetched unless the
path says so: `hub:NAME` is a CLAP on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audiostory.benchmark.scoring import METRICS, NETWORKS, Networks
from audiostory.systems.models import checked_device

HUB = "hub:"


def load(metrics: Sequence[str], weights: Mapping[str, str | None], cache: Path, device: str | None) -> Networks:
    """ValueError for a metric that does not exist, and one that says of all missing weights what to fetch."""
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"suite.metrics has {unknown[0]!r}; there are {', '.join(METRICS)}")
    if unknown := [name for name in weights if name not in NETWORKS]:
        raise ValueError(f"suite.weights has {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    loaded, missing, device = {}, [], checked_device(device)
    for name in metrics:
        if name in NETWORKS:
            try:
                loaded[name] = _load(name, weights.get(name), device)
            except ValueError as error:
                missing.append(f"{name}: {error}")
    if missing:
        raise ValueError(
            "some networks are not here:\n" + "\n".join(missing) + "\nName them as suite.weights.NAME=PATH, or choose "
            "suite.metrics=[...] without them"
        )
    cnn14 = {name: network for name, network in loaded.items() if name.startswith("cnn14")}
    return Networks(cache=cache, vggish=loaded.get("vggish"), cnn14=cnn14, clap=loaded.get("clap"))


def _load(name: str, path: str | None, device: str) -> Any:
    from audiostory.benchmark.embedders.clap import Clap
    from audiostory.benchmark.embedders.panns import Panns
    from audiostory.benchmark.embedders.vggish import Vggish

    folder = path or f"suite.weights.{name}"  # a folder that is not there: the message says what to fetch
    if name == "clap":
        if folder.startswith(HUB):
            return Clap.load(_fetched(folder.removeprefix(HUB)), folder.removeprefix(HUB), device=device)
        return Clap.load(folder, device=device)
    if name == "vggish":
        return Vggish.load(folder, device=device)
    return Panns.load(folder, 16_000 if name == "cnn14_16k" else 32_000, device=device)


def _fetched(name: str) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors", "pytorch_model.bin"])
