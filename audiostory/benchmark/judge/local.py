"""A model that hears in this process, from a local folder: Qwen2-Audio, Qwen2.5-Omni and what else transformers' own
classes load as a multimodal language model. Nothing is downloaded.

Only the shape of this is tested, on a tiny random Qwen2-Audio: no real weights of this kind have judged with it yet.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from audiostory.benchmark.judge.backend import RefusedError, UnsendableError
from audiostory.benchmark.judge.recording import heard_at
from audiostory.disk import sha256

MAX_NEW_TOKENS = 512


def model_name(folder: Path) -> str:
    """The folder's name and what tells it from another of the same name: a digest of all its files. Weights of 15 GB
    take half a minute.

    ValueError for a folder that holds no model.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json; --model is the folder of a downloaded model here")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    contents = [(file.name, _content(file, file.stat().st_mtime_ns, file.stat().st_size)) for file in files]
    return f"{folder.absolute().name}@{hashlib.sha256(repr(contents).encode()).hexdigest()[:8]}"


@cache  # the file's times stand in for its content within one run
def _content(file: Path, changed: int, size: int) -> str:
    return sha256(file)


class Local:
    """One question at a time, whatever the number of threads. `seed` matters above temperature 0 alone.

    ValueError for a folder that holds no such model.
    """

    name = "local"

    def __init__(
        self, folder: Path, *, temperature: float, device: str | None = None, dtype: str = "auto", seed: int = 0
    ) -> None:
        import torch
        from transformers import AutoModelForMultimodalLM, AutoProcessor

        self.model, self.temperature, self._lock = model_name(folder), temperature, Lock()
        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForMultimodalLM.from_pretrained(folder, local_files_only=True, dtype=dtype)
        except (OSError, KeyError, ImportError, ValueError) as error:
            raise ValueError(f"{folder} is no model that hears and writes ({str(error).splitlines()[0]})") from error
        if not hasattr(self._processor, "feature_extractor"):
            raise ValueError(f"the model in {folder} does not hear: it has no feature extractor for sound")
        model = getattr(model, "thinker", model)  # of the Omni models, the part that writes; the other speaks
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._model = model.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the model cannot go to {device!r} ({reason}); choose another --device") from error
        torch.manual_seed(seed)

    def ask(self, prompt: str, audio: Path | None) -> str:
        """UnsendableError for a recording longer than the model hears, which it would cut off without a word."""
        import torch

        content: list[dict[str, str]] = [{"type": "text", "text": prompt}]
        recording: dict[str, Any] = {}
        if audio is not None:
            extractor = self._processor.feature_extractor
            samples = heard_at(audio, extractor.sampling_rate)
            longest = getattr(extractor, "n_samples", None)
            if longest is not None and len(samples) > longest:
                seconds, limit = len(samples) / extractor.sampling_rate, longest / extractor.sampling_rate
                raise UnsendableError(
                    f"{audio} lasts {seconds:.1f} s and this model hears the first {limit:.0f} s alone"
                )
            content.insert(0, {"type": "audio", "audio": str(audio)})
            recording = {"audio": [samples], "sampling_rate": extractor.sampling_rate}
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = self._processor(text=[text], return_tensors="pt", padding=True, **recording).to(self._model.device)
        if audio is not None:
            inputs["input_features"] = inputs["input_features"].to(self._model.dtype)
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        try:
            with self._lock, torch.inference_mode():
                written = self._model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **sampling)
        except torch.OutOfMemoryError as error:
            raise RefusedError("the GPU's memory is full; free some, or choose a smaller model") from error
        new = written[:, inputs["input_ids"].shape[1] :]
        return self._processor.batch_decode(new, skip_special_tokens=True)[0]
