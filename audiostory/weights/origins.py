"""One component of a model from whatever kind of folder holds it: where stages of training start from.

What a folder is, its files tell:

    {component}/config.json                   ours: a model, or a stage's export
    config.yaml                               the released checkpoint (SPEC 2): all but the audio encoder
    tangoflux.safetensors                     TangoFlux: dit, text_encoder, codec
    config.json of type qwen2, t5, whisper    a plain Hugging Face folder: planner, text_encoder, audio_encoder
    config.json and safetensors otherwise     TangoFlux's VAE alone: codec
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from audiostory.story import Vocabulary, add_special_tokens
from audiostory.weights import files, huggingface, ours, released, tangoflux

_TYPES = {"qwen2": "planner", "t5": "text_encoder", "whisper": "audio_encoder"}


class Origin:
    """A folder that components are read from; what can only be read together is read once.

    `tangoflux_folder` is the folder beside a released checkpoint, where it is not under its usual name.
    """

    def __init__(self, folder: str | Path, tangoflux_folder: str | Path | None = None):
        self.folder, self._tangoflux_folder = Path(folder), tangoflux_folder
        if not self.folder.is_dir():
            raise ValueError(f"there is no folder {folder} to read weights from; check the path")

    def holds(self, name: str) -> bool:
        """Whether the folder can give this component."""
        if self._is_ours(name):
            return True
        if self._is_released:
            return getattr(self._released, name, None) is not None
        if self._is_tangoflux:
            return name in ("dit", "text_encoder", "codec")
        if not (self.folder / "config.json").is_file():
            return False
        kind = self._model_type
        return _TYPES[kind] == name if kind in _TYPES else name == "codec"

    def read(self, name: str, vocabulary: Vocabulary | None = None) -> Any:
        """The component, in eval mode, float32, on the CPU. A planner of Hugging Face gets a row for every token of
        `vocabulary`. ValueError when the folder does not hold it, or holds it damaged."""
        if not self.holds(name):
            raise ValueError(
                f"{self.folder} holds no {name}; expected a stage's export or a model folder with {name}/ in it, or a "
                "folder of TangoFlux, Qwen2.5, Flan-T5, Whisper or the released checkpoint that has one"
            )
        if self._is_ours(name):
            return ours.read_component(self.folder, name)
        if self._is_released:
            return getattr(self._released, name)
        if self._is_tangoflux:
            return self._tangoflux[name]
        if name == "planner":
            return huggingface.read_planner(self.folder, num_tokens=None if vocabulary is None else len(vocabulary))
        if name == "text_encoder":
            return huggingface.read_text_encoder(self.folder)
        if name == "audio_encoder":
            return huggingface.read_audio_encoder(self.folder)
        return tangoflux.read_codec(self.folder)[0]

    def vocabulary(self, *, num_semantic: int, num_residual: int) -> Vocabulary | None:
        """The planner's; that of a plain Qwen2.5 gets the special tokens appended. None when there is none."""
        if (self.folder / "tokenizer").is_dir():
            return ours.read_vocabulary(self.folder, num_semantic=num_semantic, num_residual=num_residual)
        if self._is_released:
            return self._released.vocabulary
        if not (self.folder / "tokenizer.json").is_file() or not self.holds("planner"):
            return None
        tokenizer = huggingface.read_tokenizer(self.folder)
        add_special_tokens(tokenizer)
        return Vocabulary(tokenizer, num_semantic=num_semantic, num_residual=num_residual)

    def _is_ours(self, name: str) -> bool:
        return (self.folder / name / "config.json").is_file()

    @property
    def _is_released(self) -> bool:
        return released.looks_released(self.folder)

    @property
    def _is_tangoflux(self) -> bool:
        return (self.folder / tangoflux.TANGOFLUX_FILE).is_file()

    @property
    def _model_type(self) -> Any:
        return files.read_json(self.folder / "config.json").get("model_type")

    @cached_property
    def _released(self) -> released.Released:
        return released.read(released.Folders.of(self.folder, self._tangoflux_folder), text_encoder=True)

    @cached_property
    def _tangoflux(self) -> dict[str, Any]:
        dit, text_encoder, codec = tangoflux.read(self.folder)
        return {"dit": dit, "text_encoder": text_encoder, "codec": codec}
