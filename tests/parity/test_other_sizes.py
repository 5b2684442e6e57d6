"""Nothing in the comparison is tied to the one recording that we have.

Here is another, of other sizes, seeds, scales and token counts, made by our own classes: every check runs twice, first
to keep what ours gives, then to compare. That proves nothing of the numbers and all of the sizes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import golden_weights
import pytest
import torch
import yaml
from torch import Tensor

from audiostory.model.planner import following
from audiostory.parity import checks, compare, parts, planning, stories, training
from audiostory.parity.checks import Check
from audiostory.parity.recording import Recording
from audiostory.weights import build, huggingface, released, tangoflux

SEED, SEMANTIC, RESIDUAL, SCALE = 4321, 5, 3, 2.5
PLANNER = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 80,
}
FRAMES, FADE = 56, 0.4
EVENTS = (("a bell", 0.5), ("rain on tin", 1.35), ("dogs", 0.2), ("wind howls far away", 0.8))


class Tape(Recording):
    """Holds the inputs; what is asked for and not there yet is a placeholder that the first run replaces."""

    def __init__(self, folder: Path, meta: dict[str, Any]):
        super().__init__(folder)
        self.texts: dict[str, dict[str, Any]] = {"meta": meta, "train_grad_norms": {}}
        self.tensors: dict[str, dict[str, Tensor]] = {}

    def data(self, name: str) -> dict[str, Tensor]:
        return self.tensors[name]

    def json(self, name: str) -> dict[str, Any]:
        return self.texts[name]

    def keep(self, name: str, ours: Any, recorded: Any, *_: Any, **__: Any) -> Check:
        file, _, key = name.partition(".")
        if file in self.tensors and not isinstance(ours, (bool, int, str, list, tuple)):
            kept = torch.as_tensor(ours).detach().clone()
            ends = [entry for entry in self.tensors[file] if entry.endswith(key.removeprefix("grad:"))]
            key = ends[0] if key.startswith("grad:") else f"{key}_out" if file == "crossfade" else key
            placed = self.tensors[file].get(key)
            self.tensors[file][key] = kept.bool() if placed is not None and placed.dtype == torch.bool else kept
        return Check(name=name, error=0.0, tolerance=0.0)


class Open(dict):
    def __missing__(self, key: str) -> Tensor:
        return torch.zeros(1)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def drawn(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """A manifest's entry for a weight, of a size at which networks neither die nor explode."""
    entry = {"name": f"other:{name}", "shape": list(shape), "amp": 0.1, "offset": 0.0}
    if (len(shape) == 1 and "norm" in name) or name.endswith("weight_g"):
        return {**entry, "offset": 1.0}
    return {**entry, "amp": shape[-1] ** -0.5} if len(shape) > 1 and "snake" not in name else entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """manifest.json and ckpt_static/ of other sizes than the golden ones."""
    folder = tmp_path_factory.mktemp("other")
    static = folder / "ckpt_static"
    shutil.copytree(golden_weights.GOLDEN / "ckpt_static", static)
    model, flux = (static / "audiostory-tiny").rename(static / "audiostory-other"), static / "Flux_detokenizer"
    added = json.loads((static / "tokenizer" / "added_tokens.json").read_text())
    names = [name for name in added if not (name.startswith("<t5_") and int(name[4:9]) > 8)]
    (static / "tokenizer" / "added_tokens.json").write_text(json.dumps(dict.fromkeys(names, 7)))
    config = yaml.safe_load((model / "config.yaml").read_text())
    config["llm_model"]["peft_config"].update(r=3, lora_alpha=12)
    config["llm_model"]["vocab_size"] = 345 + len(names)
    config["agent_model"].update(t5_feature_scale=SCALE, model_dims=48)
    config["agent_model"]["whisper_resampler_llava"].update(token_num=6, ori_embed_dim=16, tgt_embed_dim=48)
    config["seedx_dit_model_cfg"].update(rec_loss_scale=0.25, lm_loss_scale=2.0)
    config["train_dataset"]["datapipes"][0] = {"num_t5_out_tokens": SEMANTIC, "num_aud_out_tokens": RESIDUAL}
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    edit(static / "Qwen-tiny" / "config.json", **PLANNER)
    edit(static / "flan-t5-tiny" / "config.json", num_layers=2, d_ff=48)
    edit(flux / "config.json", num_layers=2, num_attention_heads=2, audio_seq_len=FRAMES, max_duration=20)
    edit(flux / "vae_config.json", sampling_rate=640)
    (folder / "manifest.json").write_text(json.dumps({"seed": SEED, "files": weight_files(static, model, flux)}))
    return folder


def weight_files(static: Path, model: Path, flux: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:  # there are no weights yet that sizes could be compared with
        patch.setattr(build, "check_layers", lambda *_, **__: None)
        patch.setattr(build, "check_planner_sizes", lambda *_, **__: None)
        vae = tangoflux.read_vae_config(flux)
        empty = released.build_empty(
            released.read_config(model),
            tangoflux.read_config(flux),
            vae,
            huggingface.qwen_config(static / "Qwen-tiny"),
            huggingface.t5_config(static / "flan-t5-tiny"),
            {},
            model,
        )
        codec = tangoflux.empty_codec(vae, {}, flux)
    unified: dict[str, Any] = {}
    for ours, shape in empty.shapes().items():
        theirs = str(released.RELEASED.to_theirs(ours))
        unified[theirs] = drawn(theirs, shape)
    for alias, original in released.RELEASED.aliases.items():
        unified[alias] = {"alias": original, "shape": unified[original]["shape"]}
    codec_keys = {name: drawn(name, shape) for name, shape in build.shapes_of(codec.vae).items()}
    return {
        "ckpt/audiostory-other/pytorch_model.bin": {"keys": unified},
        "ckpt/Flux_detokenizer/model.safetensors": {"keys": codec_keys},
    }


def other_meta() -> dict[str, Any]:
    meta = json.loads((golden_weights.GOLDEN / "data" / "meta.json").read_text())
    block = "".join(f"<t5_{i:05d}>" for i in range(SEMANTIC)), "".join(f"<aud_{i:05d}>" for i in range(RESIDUAL))
    written = [
        f"<|gen|>{c}<timestamp>{s}</timestamp><t5>{block[0]}</t5><aud>{block[1]}</aud><|/gen|>" for c, s in EVENTS
    ]
    meta["generate_scripted"].update(
        script=f"Four.<|/think|>{''.join(written)}<|im_end|>",
        captions=[f"{caption}<timestamp>{seconds}</timestamp>" for caption, seconds in EVENTS],
        reasoning="Four.",
    )
    meta["sampler"] = {"guidance": 3.0, "steps": 5, "duration": 2.5, "seed": 11}
    clips = [{"content": c, "parsed_duration": s, "used_duration": s + FADE} for c, s in EVENTS]
    clips[-1]["used_duration"] = EVENTS[-1][1]
    meta["end_to_end"].update(crossfade_sec=FADE, steps=3, guidance=2.0, vae_sr=640, target_sr=500, clips=clips)
    arguments = {
        "--generated_caption": "rain",
        "--total_duration": "9.0",
        "--target_sr": "500",
        "--crossfade_sec": "0.4",
    }
    meta["inference_main"].update(
        args=[word for pair in arguments.items() for word in pair], steps=4, wav_sample_rate=500
    )
    meta["n_no_grad_but_trainable"] = []
    meta["edge_generation"]["one_event_ok"] = [
        [1, SEMANTIC, 1024], [1, RESIDUAL, 1024], ["dogs<timestamp>1.0</timestamp>"], "abc"
    ]  # fmt: skip
    return meta


def fill_inputs(tape: Tape, subject: checks.Subject) -> None:
    vocabulary, draws = subject.merged.vocabulary, torch.Generator().manual_seed(5)
    meta = tape.meta

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws)

    prompt = vocabulary.encode(meta["generate_scripted"]["prompt"])
    answer = vocabulary.encode(meta["generate_scripted"]["script"])
    known = following(vocabulary)
    meta["generate_scripted"]["forced_by_bridge_positions"] = [
        place for place in range(1, len(answer)) if answer[place - 1] in known
    ]
    freely = subject.merged.planner.write(
        prompt, vocabulary, max_new_tokens=60, repetition_penalty=1.05, free_bridge_score=0.0
    ).ids[:40]
    meta["generate_free"]["text"] = vocabulary.decode(freely)
    seeded = torch.Generator().manual_seed(SEED + 1)
    hidden = {
        f"hidden_{kind}": torch.randn(4, count, 48, generator=seeded)
        for kind, count in (("semantic", SEMANTIC), ("residual", RESIDUAL))
    }
    run = {"fused": noise(1, SEMANTIC, 1024), "init_noise": torch.zeros(1, FRAMES, 64), "timesteps": torch.zeros(5)}
    tape.tensors |= {
        "fuser": Open(hidden),
        "conditioning": Open(
            durations=torch.tensor([0.0, 1, 5, 20, 50]), t5_text_mask=torch.zeros(2, 26, dtype=torch.bool)
        ),
        "flow_loss": Open(
            latents=noise(2, FRAMES, 64), t5_tokens=noise(2, SEMANTIC, 1024), duration=torch.tensor([1.0, 7.0])
        ),
        "sampler": Open({**run, **{f"{name}_b": value for name, value in run.items()}}),
        "vae": Open(encode_wave=noise(1, 2, 256)),
        "crossfade": Open(golden_weights.data("crossfade")),
        "generate_scripted": Open(
            prompt_ids=torch.tensor([prompt]), script_ids=torch.tensor(answer), generated_ids=torch.tensor(answer)
        ),
        "generate_free": Open(prompt_ids=torch.tensor([prompt]), generated_ids=torch.tensor(freely)),
        "end_to_end": Open({f"latents_{index}": torch.zeros(1, FRAMES, 64) for index in range(len(EVENTS))}),
        "inference_main": Open(),
    }
    row = torch.tensor([[*prompt, *answer[: answer.index(vocabulary.end_gen) + 1]]] * 2)
    masks = {
        f"ids_{kind}_gen_mask": torch.isin(row, torch.tensor(ids))
        for kind, ids in (("t5", vocabulary.semantic_ids), ("aud", vocabulary.residual_ids))
    }
    heard = torch.zeros_like(row, dtype=torch.bool)
    heard[1, 10:16] = True
    audio = {"ids_cmp_mask": heard, "audio_embeds": noise(2, 15, 16), "embeds_cmp_mask": torch.tensor([True, False])}
    for name, more in (("train_forward", {}), ("train_forward_audio_in", audio)):
        gradients = [key for key in golden_weights.data(name) if key.startswith("grad:")]
        tape.tensors[name] = Open(
            {
                **masks, **more,
                **{key: torch.zeros(1) for key in gradients},
                "input_ids": row,
                "attention_mask": torch.ones_like(row),
                "labels": torch.where(torch.arange(row.shape[1]) > len(prompt), row, -100),
                "caption_embeds": noise(2, SEMANTIC, 1024),
                "audio_latent": noise(2, FRAMES, 64),
                "duration": torch.tensor([2.0, 3.0]),
            }
        )  # fmt: skip


def fill_texts(tape: Tape, subject: checks.Subject) -> None:
    """What the first run does not keep, since it is no tensor."""
    vocabulary, meta = subject.merged.vocabulary, tape.meta
    meta["token_ids"] = {name: [vocabulary.tokenizer.token_to_id(name)] for name in ("<aud>", "<t5_00004>")}
    meta["len_tokenizer"] = len(vocabulary)
    for case in meta["tokenize_cases"]:
        case["ids"] = vocabulary.encode(case["text"])
    for losses, name in (("train_losses", "train_forward"), ("train_losses_audio_in", "train_forward_audio_in")):
        meta[losses] = {key: tape.data(name)[key].item() for key in meta[losses]}
    model = training._model(subject)
    list(training._step("train_forward", "train_losses", 3, subject, model))
    norms = {k: [g.double().norm().item(), g.double().sum().item()] for k, g in training._gradients(model).items()}
    tape.texts["train_grad_norms"] = norms
    meta["n_trainable"] = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    meta["end_to_end"]["concat_samples"] = tape.data("end_to_end")["concat"].shape[1]
    meta["inference_main"]["wav_shape"] = list(tape.data("inference_main")["wave"].shape)


@torch.no_grad()
def test_a_recording_of_other_sizes_is_compared_as_well(folder, monkeypatch):
    tape = Tape(folder, other_meta())
    subject = compare.load(tape)
    fill_inputs(tape, subject)
    with monkeypatch.context() as patch:
        for module in (parts, planning, stories, training):
            for name in ("absolute", "relative", "exact"):
                if hasattr(module, name):
                    patch.setattr(module, name, tape.keep)
        order = sorted(compare.FILES, key=lambda name: name in ("vae", "meta"))
        for name in order:
            if name == "vae":
                tape.tensors["vae"]["latents"] = tape.tensors["sampler"]["latents"]
            list(compare.FILES[name](subject))
        fill_texts(tape, subject)
    found = list(compare.run(subject))
    assert [str(check) for check in found if not check.passed] == []
    assert len(found) > 140
