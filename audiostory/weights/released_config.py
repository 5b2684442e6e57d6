"""What the released config.yaml says of the weights beside it, read as plain values (SPEC 2).

It names classes to import and functions to call as well, which nobody here does. What it leaves open is an error and
never a guess, since a wrong scale or token count gives sound that is merely bad.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiostory.model.planner import LORA_LEARNT_WHOLE, LORA_TARGETS, LoraSettings
from audiostory.weights import files

MOST_TOKENS, MOST_LISTENING_TOKENS = 500, 1500  # the release has names for so many, and Whisper frames
SHIPPED_NUM_TOKENS = 152277  # in the LoRA file that the release ships; LoraSettings' defaults are its others


@dataclass(frozen=True, kw_only=True)
class ReleasedConfig:
    """What is read from config.yaml; the folders are still as it names them."""

    num_semantic: int
    num_residual: int
    feature_scale: float
    planner_width: int
    num_tokens: int
    lora: LoraSettings
    language_model: str
    tokenizer: str
    added_tokens: str
    listener: Mapping[str, int] | None
    loss_weights: Mapping[str, float]


def read_config(folder: Path, llm_config: Path | None = None) -> ReleasedConfig:
    """The values of config.yaml that matter. ValueError for what is absent or of another kind.

    An `llm_model` of null is what the release then takes from its shipped configs/audiostory_llm_qwen25_3b_lora.yaml:
    `llm_config` if given, else that file's values (SPEC 2). The tensors' shapes confirm the rank, not alpha.
    An `llm_model` that is there wins over `llm_config`.
    """
    yaml = _Yaml(folder / "config.yaml")
    llm = yaml.below("llm_model") or (_Yaml(llm_config) if llm_config else None)
    shipped = llm is None
    width = yaml.whole("agent_model.model_dims")
    tokenizer_folder = yaml.text("tokenizer.pretrained_model_path")
    listener = yaml.below("agent_model.whisper_resampler_llava")
    _expect(yaml.get("seedx_dit_model_cfg.rec_loss_type", "mse"), "mse", f"{yaml.path}: rec_loss_type")
    return ReleasedConfig(
        num_semantic=yaml.whole("train_dataset.datapipes.0.num_t5_out_tokens", MOST_TOKENS),
        num_residual=yaml.whole("train_dataset.datapipes.0.num_aud_out_tokens", MOST_TOKENS),
        feature_scale=yaml.number("agent_model.t5_feature_scale"),
        planner_width=width,
        num_tokens=SHIPPED_NUM_TOKENS if shipped else llm.whole("vocab_size"),
        lora=LoraSettings() if shipped else _lora(llm),
        language_model=tokenizer_folder if shipped else llm.text("model.pretrained_model_name_or_path"),
        tokenizer=tokenizer_folder,
        added_tokens=yaml.text("tokenizer.add_tokens_path"),
        listener=None if listener is None else _listener(listener, width),
        loss_weights={
            "text": yaml.number("seedx_dit_model_cfg.lm_loss_scale", 1.0),
            "semantic": yaml.number("seedx_dit_model_cfg.rec_loss_scale", 1.0),
            "flow": yaml.number("seedx_dit_model_cfg.dit_loss_scale", 1.0),
        },
    )


def _lora(llm: _Yaml) -> LoraSettings:
    for name, wanted in (("target_modules", LORA_TARGETS), ("modules_to_save", LORA_LEARNT_WHOLE)):
        given = llm.get(f"peft_config.{name}")
        _expect(sorted(map(str, given)) if isinstance(given, list) else given, sorted(wanted), f"{llm.path}: {name}")
    return LoraSettings(
        rank=llm.whole("peft_config.r"),
        alpha=llm.whole("peft_config.lora_alpha"),
        dropout=llm.number("peft_config.lora_dropout", 0.0, least=0.0),
    )


def _listener(listener: _Yaml, planner_width: int) -> dict[str, int]:
    _expect(
        listener.whole("tgt_embed_dim"), planner_width, f"{listener.path}: tgt_embed_dim of whisper_resampler_llava"
    )
    return {
        "audio_width": listener.whole("ori_embed_dim"),
        "planner_width": planner_width,
        "num_tokens": listener.whole("token_num", MOST_LISTENING_TOKENS),
    }


class _Yaml:
    """Values of a YAML file by dotted path ("datapipes.0.name"), each of the kind that is asked for."""

    def __init__(self, path: Path, content: Any = None, above: str = ""):
        self.path, self._above = path, above
        self._content: Any = files.read_yaml(path) if content is None else content

    def get(self, name: str, *default: Any) -> Any:
        value = self._content
        for step in name.split("."):
            try:
                value = value[int(step)] if isinstance(value, list) else value[step]
            except (KeyError, IndexError, TypeError, ValueError):
                if default:
                    return default[0]
                raise ValueError(
                    f"{self.path} lacks {self._above}{name}, which is never guessed; write it as the checkpoint was "
                    "trained"
                ) from None
            if _is_reference(value):
                raise ValueError(
                    f"{self.path}: {self._above}{name} refers to {files.short(value)}, and references are not "
                    "resolved; write the value itself"
                )
        return value

    def below(self, name: str) -> _Yaml | None:
        """A part of the file; None where it is null or absent."""
        value = self.get(name, None)
        return None if value is None else _Yaml(self.path, value, f"{self._above}{name}.")

    def whole(self, name: str, most: int = files.WIDEST) -> int:
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self._strange(name, value, f"a whole number from 1 to {most}")
        return value

    def number(self, name: str, *default: float, least: float = 1e-6) -> float:
        value = self.get(name, *default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= files.WIDEST:
            raise self._strange(name, value, f"a number from {least:g} to {files.WIDEST}")
        return float(value)

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise self._strange(name, value, "a name")
        return value

    def _strange(self, name: str, value: Any, expected: str) -> ValueError:
        return ValueError(
            f"{self.path}: {self._above}{name} is {files.short(value)}, expected {expected}; write it as the "
            "checkpoint was trained"
        )


def _is_reference(value: object) -> bool:
    return isinstance(value, str) and "${" in value


def _expect(value: Any, wanted: Any, what: str) -> None:
    if value != wanted:
        raise ValueError(
            f"{what} is {files.short(value)}, only {wanted!r} is known; with another the weights mean something else, "
            "so fetch the released ones"
        )
