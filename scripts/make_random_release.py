"""Writes a checkpoint in the released layout with random weights: for trying memory, speed and conversion without one.

    python scripts/make_random_release.py --output runs/random-3b --dtype bf16      # full size: 8 GB, a minute or two

The folder is what docs/WEIGHTS.md describes (ckpt/audiostory-3B, Flux_detokenizer, Qwen2.5-3B-Instruct, flan-t5-large,
tokenizer); what it tells is noise. The two tokenizers are stand-ins: every byte is a token, and the rest is filler.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

KEYS = Path(__file__).parents[1] / "tests" / "data"  # keys_full.txt and keys_vae.txt: every tensor of the real ones
BASE_TOKENS = 151665  # Qwen2.5's, SPEC 3
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WIDTH = 2048
LANGUAGE_MODEL = {
    "model_type": "qwen2",
    "hidden_size": WIDTH,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
}
TEXT_ENCODER = {
    "model_type": "t5",
    "d_model": 1024,
    "d_kv": 64,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "d_ff": 2816,
    "num_layers": 24,
    "num_heads": 16,
}


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="a new folder; ckpt/ goes into it")
    add("--dtype", choices=("fp32", "bf16", "fp16"), default="bf16", help="what the weights are stored in (bf16)")
    add("--seed", type=int, default=0)
    return arguments


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.output.exists():
        print(f"error: {options.output} exists; give a new folder", file=sys.stderr)
        return 2
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[options.dtype]
    torch.manual_seed(options.seed)
    checkpoint = options.output / "ckpt"
    _write_configs(checkpoint)
    _write_weights(checkpoint, dtype)
    print(f"written: {checkpoint}")
    return 0


def _write_configs(checkpoint: Path) -> None:
    import yaml

    from audiostory.model.planner import LORA_LEARNT_WHOLE, LORA_TARGETS, LoraSettings
    from audiostory.story.vocabulary import SPECIAL_TOKENS
    from audiostory.weights.tangoflux import TangoFluxConfig

    settings = LoraSettings()
    lora = {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "modules_to_save": list(LORA_LEARNT_WHOLE),
        "target_modules": list(LORA_TARGETS),
    }
    released = {
        "tokenizer": {
            "pretrained_model_path": "ckpt/Qwen2.5-3B-Instruct",
            "add_tokens_path": "ckpt/tokenizer/added_tokens.json",
        },
        "llm_model": {
            "model": {"pretrained_model_name_or_path": "ckpt/Qwen2.5-3B-Instruct"},
            "peft_config": lora,
            "vocab_size": BASE_TOKENS + len(SPECIAL_TOKENS),
        },
        "agent_model": {
            "t5_feature_scale": 10.0,
            "model_dims": WIDTH,
            "whisper_resampler_llava": {"token_num": 64, "ori_embed_dim": 1280, "tgt_embed_dim": WIDTH},
        },
        "seedx_dit_model_cfg": {"rec_loss_type": "mse", "model_dims": WIDTH},
        "train_dataset": {"datapipes": [{"num_t5_out_tokens": 64, "num_aud_out_tokens": 8}]},
    }
    flux = {**vars(TangoFluxConfig()), "text_encoder_name": "ckpt/flan-t5-large"}
    documents = {
        "audiostory-3B/config.yaml": yaml.safe_dump(released),
        "Qwen2.5-3B-Instruct/config.json": json.dumps(LANGUAGE_MODEL),
        "Qwen2.5-3B-Instruct/generation_config.json": json.dumps({"repetition_penalty": 1.05}),
        "Qwen2.5-3B-Instruct/tokenizer.json": _tokenizer([], BASE_TOKENS - len(CHAT_TOKENS), CHAT_TOKENS),
        "flan-t5-large/config.json": json.dumps(TEXT_ENCODER),
        "flan-t5-large/tokenizer.json": _tokenizer(["<pad>", "</s>"], 32100, ()),
        "Flux_detokenizer/config.json": json.dumps(flux),
        "tokenizer/added_tokens.json": json.dumps({name: index for index, name in enumerate(SPECIAL_TOKENS)}),
    }
    for name, text in documents.items():
        path = checkpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _write_weights(checkpoint: Path, dtype) -> None:
    import torch
    from safetensors.torch import save_file
    from tqdm.auto import tqdm

    from audiostory.weights.released import RELEASED

    def draw(name: str, shape: tuple[int, ...]):
        if name.endswith("weight_g") or ("norm" in name and len(shape) == 1 and name.endswith("weight")):
            return torch.ones(shape, dtype=dtype)
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.02
        return torch.randn(shape).mul_(scale).to(dtype)

    tensors = {}
    for name, shape in tqdm(_shapes("keys_full.txt").items(), desc="drawing", unit=" tensors"):
        original = RELEASED.aliases.get(name)
        tensors[name] = tensors[original] if original in tensors else draw(name, shape)
    torch.save(tensors, checkpoint / "audiostory-3B" / "pytorch_model.bin")
    vae = {name: draw(name, shape) for name, shape in _shapes("keys_vae.txt").items()}
    save_file(vae, checkpoint / "Flux_detokenizer" / "model.safetensors")


def _shapes(file: str) -> dict[str, tuple[int, ...]]:
    lines = [line.split("\t") for line in (KEYS / file).read_text().splitlines() if not line.startswith("#")]
    return {name: tuple(int(size) for size in shape.strip("(),").split(",")) for name, shape, *_ in lines}


def _tokenizer(first: list[str], num_tokens: int, special: tuple[str, ...]) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names = [*alphabet, *(f"filler_{index}" for index in range(num_tokens - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return tokenizer.to_str()


if __name__ == "__main__":
    sys.exit(main())
