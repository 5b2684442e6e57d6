"""CLAP: recordings and captions in one space, through transformers' ClapModel, from a local folder.

Fed as stable-audio-metrics does: peak at -1 dB, rounded to 16 bits, each recording as if it were alone. A checkpoint
with fusion (laion/clap-htsat-fused) hears recordings of any length, as the whole shrunk and three excerpts; one without
hears 10 s of longer ones. The excerpts are drawn from the same seed for every recording. CLAP scores of different
checkpoints do not compare, so the name is part of every figure. Values with published weights are unchecked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float

from audiostory.benchmark.embedders import checkpoints
from audiostory.benchmark.embedders.recordings import Preparation

SAMPLE_RATE = 48_000
SEED = 0
LONGEST_TEXT = 77  # tokens, as LAION's own code cuts
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
NEEDED = ("config.json", "preprocessor_config.json")
FETCH = (
    "fetch laion/clap-htsat-fused (about 615 MB) from the Hugging Face hub into a folder, with\n"
    "  hf download laion/clap-htsat-fused --local-dir FOLDER"
)


class Clap:
    """The embedder. Each recording gives {"embedding": [1 D]}, of length 1; so do the captions of `texts`."""

    preparation = Preparation(sample_rate=SAMPLE_RATE, peak_db=-1.0, sixteen_bit=True)

    def __init__(
        self, model: Any, extractor: Any, tokenizer: Any, *, name: str, version: str, device: torch.device | str = "cpu"
    ) -> None:
        """`name` is the checkpoint's, `version` the digest of its folder."""
        from transformers import __version__

        self.model, self.extractor, self.tokenizer = model.to(device).eval(), extractor, tokenizer
        self.name, self.version, self.device = name, version, device
        self.is_fused = bool(model.config.audio_config.enable_fusion)
        self.settings = {"arithmetic": 1, "transformers": __version__, "fusion": self.is_fused, "seed": SEED}

    @classmethod
    def load(cls, folder: str | Path, name: str | None = None, device: torch.device | str = "cpu") -> Clap:
        """A folder as the hub has it; `name` is the checkpoint's in reports, the folder's own if not given.

        ValueError that says what to fetch, or what is wrong.
        """
        from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

        folder = Path(folder)
        lacking = [file for file in NEEDED if not (folder / file).is_file()]
        if not any((folder / file).is_file() for file in WEIGHTS):
            lacking.append(" or ".join(WEIGHTS))
        if lacking:
            raise ValueError(f"no CLAP in {folder}, it lacks {', '.join(lacking)}; {FETCH}")
        try:
            loaded: Any = ClapModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            model, info = loaded
            extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # damage in a configuration or in weights shows in any way
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"the CLAP in {folder} cannot be read ({reason}); {FETCH}") from error
        if wrong := sorted(info["missing_keys"]) or sorted(map(str, info["mismatched_keys"])):
            raise ValueError(
                f"the weights in {folder} lack {len(wrong)} tensors of a ClapModel ({', '.join(wrong[:3])}); {FETCH}"
            )
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ValueError(
                f"{folder / NEEDED[1]} asks for {extractor.sampling_rate} Hz, CLAP hears at {SAMPLE_RATE}; {FETCH}"
            )
        files = [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".txt")]
        version = checkpoints.digest(files)
        return cls(model, extractor, tokenizer, name=name or folder.resolve().name, version=version, device=device)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Float[np.ndarray, W]]) -> list[dict[str, np.ndarray]]:
        heard = [self._hear(clip) for clip in clips]
        features, is_longer = (torch.cat(parts).to(self.device) for parts in zip(*heard, strict=True))
        vectors = self.model.get_audio_features(input_features=features, is_longer=is_longer).pooler_output
        return [{"embedding": row[None]} for row in F.normalize(vectors, dim=-1).cpu().numpy()]

    @torch.inference_mode()
    def texts(self, captions: Sequence[str], batch_size: int = 64) -> Float[np.ndarray, "n D"]:
        """Of length 1, so that the product with a recording's vector is their cosine, which the CLAP score is."""
        rows = []
        for start in range(0, len(captions), batch_size):
            some = list(captions[start : start + batch_size])
            tokens = self.tokenizer(
                some, padding=True, truncation=True, max_length=LONGEST_TEXT, return_tensors="pt"
            ).to(self.device)
            vectors = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            rows.append(F.normalize(vectors, dim=-1).cpu().numpy())
        return np.concatenate(rows)

    def _hear(self, clip: Float[np.ndarray, W]) -> tuple[torch.Tensor, torch.Tensor]:
        """Alone: among several short clips the extractor would draw one at random to be treated as a long one."""
        with _seeded():
            heard = self.extractor(
                clip,
                truncation="fusion" if self.is_fused else "rand_trunc",
                sampling_rate=SAMPLE_RATE,
                return_tensors="pt",
            )
        return heard["input_features"].float(), torch.as_tensor(heard["is_longer"]).reshape(1, 1)


@contextmanager
def _seeded() -> Iterator[None]:
    """The extractor draws from numpy's global state, which others keep."""
    state = np.random.get_state()
    np.random.seed(SEED)
    try:
        yield
    finally:
        np.random.set_state(state)
