"""A planner whose LoRA is kept apart on disk: a standard peft adapter inside the planner's plain Qwen2 folder.

    planner/config.json               planner/model*.safetensors              the base, with the norms from before LoRA
    planner/lora/adapter_config.json  planner/lora/adapter_model.safetensors  the halves, and the norms learnt instead

No peft is needed to read it merged.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch

from audiostory.model.planner import LORA_LEARNT_WHOLE, LORA_TARGETS, LoraSettings, Planner
from audiostory.weights import build, files, huggingface
from audiostory.weights.keymap import KeyMap

FOLDER, CONFIG = "lora", "adapter_config.json"
FILES, BASE_FILES = ("adapter_model.safetensors",), ("model.safetensors",)

_BOTH = KeyMap([("base_model.model.{rest}", "lora/base_model.model.{rest}"), ("{rest}", "{rest}")])
# What would change the numbers without changing the tensors' names and shapes, or name other tensors than ours.
_FIXED: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}


def read_planner(part: Path, dtype: torch.dtype, keep_lora: bool) -> Planner:
    """A planner's folder with lora/ inside, the LoRA merged unless `keep_lora`; in eval mode."""
    base, adapter = (files.open_weights(*at) for at in ((part, BASE_FILES), (part / FOLDER, FILES)))
    settings, _ = read_settings(part / FOLDER)
    tensors = files.TensorFiles([*base.paths, *adapter.paths])
    empty = build.empty_planner(huggingface.qwen_config(part), tensors.shapes, "model.", part, settings)
    source = build.Source(_BOTH, tensors, build.planner_shapes(empty), part, copied=True)
    return build.fill_planner_with_lora(empty, source, settings, dtype, keep_lora)


def read_settings(folder: Path) -> tuple[LoraSettings, str | None]:
    """The settings of an adapter, and the name of the model that it was made for, if it gives one."""
    path = folder / CONFIG
    values = files.read_json(path)
    wanted = {**_FIXED, "target_modules": sorted(LORA_TARGETS), "modules_to_save": sorted(LORA_LEARNT_WHOLE)}
    for name, one in wanted.items():
        given = values.get(name, _FIXED.get(name))
        given = sorted(map(str, given)) if isinstance(given, list) else given
        if given != one:
            raise ValueError(
                f"{path}: {name} is {files.short(given)}, only {one!r} is known; with another the weights mean "
                "something else, so copy the folder again"
            )
    rank, alpha, dropout = values.get("r"), values.get("lora_alpha"), values.get("lora_dropout", 0.0)
    for name, value in (("r", rank), ("lora_alpha", alpha)):
        files.check_size(path, name, value)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(
            f"{path}: lora_dropout is {files.short(dropout)}, expected a number from 0 to 1; copy it again"
        )
    base = values.get("base_model_name_or_path")
    settings = LoraSettings(rank=cast(int, rank), alpha=cast(int, alpha), dropout=float(dropout))
    return settings, base if isinstance(base, str) and base else None


def write_settings(folder: Path, settings: LoraSettings, base: str) -> None:
    values = {
        **_FIXED,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": list(LORA_TARGETS),
        "modules_to_save": list(LORA_LEARNT_WHOLE),
    }
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
