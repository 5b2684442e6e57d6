"""One of our model folders in the release's layout, bit for bit: what `convert` wrote comes back as it was.

    to_released(Path("models/audiostory-3b"), Path("ckpt-again"))

The small configuration files are written first and read as a reader of a released checkpoint would read them; only when
the networks they describe are ours to the last setting are the tensors given the release's names again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from transformers import Qwen2Config, T5Config

from audiostory.disk import sha256
from audiostory.model.planner import LORA_LEARNT_WHOLE, LORA_TARGETS, LoraSettings
from audiostory.story import Vocabulary
from audiostory.story.vocabulary import SPECIAL_TOKENS
from audiostory.weights import build, files, huggingface, lora, ours, released, tangoflux, writing
from audiostory.weights.convert import EXTRAS, LORA, STEMS, belongs
from audiostory.weights.keymap import KeyMap, Report

TANGOFLUX_FOLDER, TOKENS_FILE = "Flux_detokenizer", "tokenizer/added_tokens.json"
LANGUAGE_MODEL, TEXT_ENCODER = "ckpt/Qwen2.5-3B-Instruct", "ckpt/flan-t5-large"  # unless the folder knows better
LOSS_SCALES = {"text": "lm_loss_scale", "semantic": "rec_loss_scale", "flow": "dit_loss_scale"}


@dataclass(frozen=True, kw_only=True)
class Back:
    """What `to_released` wrote: a report per component, and the folders that belong beside it, by name."""

    reports: Mapping[str, Report]
    language_model: str
    text_encoder: str


def to_released(folder: Path, output: Path, *, progress: bool = True) -> Back:
    """A model folder in the release's layout, below `output`: the model, TangoFlux's folder and the list of tokens.

    ValueError for a folder that lacks what that layout holds (LoRA apart, the text encoder), or has what the layout has
    no place for; and when `output` exists.
    """
    with writing.in_place_at_the_end(output) as aside:
        said = _read_configs(folder)
        model, flux_folder = aside / folder.absolute().name, aside / TANGOFLUX_FOLDER
        _write_released_configs(said, aside, model, output.name)
        sources = _open(folder, said, model, flux_folder, progress)
        with writing.bytes_bar(sum(source.tensors.num_bytes for source in sources.values()), progress) as bar:
            weights = model / released.WEIGHT_FILES[0]
            writing.write_checksum(weights, writing.save_pickled(_released_tensors(sources), weights, bar))
            weights = flux_folder / tangoflux.VAE_ONLY_FILE
            writing.save(_renamed(sources, tangoflux.VAE), weights, bar)
            writing.write_checksum(weights, sha256(weights))
    reports = {str(folder / name): source.report for name, source in sources.items()}
    return Back(reports=reports, language_model=said.language_model, text_encoder=said.text_encoder_name)


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What the configurations of a model folder say; those of our own classes by argument, defaults included."""

    qwen: Qwen2Config
    lora: LoraSettings
    language_model: str
    bridge: Mapping[str, Any]
    dit: Mapping[str, Any]
    codec: Mapping[str, Any]
    listener_projector: Mapping[str, Any] | None
    t5: T5Config
    text_encoder_name: str
    vocabulary: Vocabulary
    loss_weights: Mapping[str, float]


def _read_configs(folder: Path) -> _Said:
    ours.read_index(folder)
    if not (folder / LORA).is_dir():
        raise ValueError(
            f"{folder / 'planner'} has its LoRA merged, and the released layout keeps it apart; "
            "convert a folder that was written without --merge_lora"
        )
    if not (folder / "text_encoder").is_dir():
        raise ValueError(f"{folder} has no text_encoder/, which the released layout holds; put it there and try again")
    settings, language_model = lora.read_settings(folder / LORA)
    text_encoder_name, loss_weights = _read_extras(folder / EXTRAS)
    qwen, bridge = huggingface.qwen_config(folder / "planner"), _settings_of("bridge", folder)
    vocabulary = ours.read_vocabulary(folder, num_semantic=bridge["num_semantic"], num_residual=bridge["num_residual"])
    if len(vocabulary) != qwen.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {len(vocabulary)} tokens, the planner's table {qwen.vocab_size} rows, and "
            "the released layout has one row per token; take both from the same model"
        )
    listens = (folder / "listener_projector").is_dir()
    return _Said(
        qwen=qwen,
        lora=settings,
        language_model=language_model or LANGUAGE_MODEL,
        bridge=bridge,
        dit=_settings_of("dit", folder),
        codec=_settings_of("codec", folder),
        listener_projector=_settings_of("listener_projector", folder) if listens else None,
        t5=huggingface.t5_config(folder / "text_encoder"),
        text_encoder_name=text_encoder_name,
        vocabulary=vocabulary,
        loss_weights=loss_weights,
    )


def _read_extras(path: Path) -> tuple[str, dict[str, float]]:
    """The text encoder's name and the weights of the losses; a model that never was a released one has no such file."""
    values = files.read_json(path) if path.is_file() else {}
    name, weights = values.get("text_encoder", TEXT_ENCODER), values.get("loss_weights", {})
    found = {key: weights.get(key, 1.0) for key in LOSS_SCALES} if isinstance(weights, dict) else {"": weights}
    if not isinstance(name, str) or not all(isinstance(value, float | int) for value in found.values()):
        raise ValueError(
            f"{path} holds {files.short(values)}, expected the text encoder's name and numbers as loss_weights; "
            "correct it or delete it"
        )
    return name, found


def _settings_of(name: str, folder: Path) -> dict[str, Any]:
    return _listed(ours.read_arguments(folder / name, name))


def _listed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without diffusers' own notes, and with lists for tuples, so that two can be compared."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
        if not name.startswith("_")
    }


def _write_released_configs(said: _Said, aside: Path, model: Path, output_name: str) -> None:
    """Everything but the weights. Paths in config.yaml are as the release has them: as seen from above `output`."""
    tokens = aside / TOKENS_FILE
    for one in (model, aside / TANGOFLUX_FOLDER, tokens.parent):
        one.mkdir()
    ids = [said.vocabulary.tokenizer.token_to_id(name) for name in SPECIAL_TOKENS]
    added = range(min(token for token in ids if token is not None), len(said.vocabulary))  # behind Qwen's own
    writing.write_json(tokens, {said.vocabulary.name(token): token for token in added})
    content = yaml.safe_dump(_released_yaml(said, f"{output_name}/{TOKENS_FILE}"), sort_keys=False)
    (model / "config.yaml").write_text(content, encoding="utf-8")
    dit, codec = said.dit, said.codec
    flux = tangoflux.TangoFluxConfig(
        num_layers=dit["num_layers"],
        num_single_layers=dit["num_single_layers"],
        in_channels=dit["in_channels"],
        attention_head_dim=dit["attention_head_dim"],
        joint_attention_dim=dit["joint_attention_dim"],
        num_attention_heads=dit["num_attention_heads"],
        audio_seq_len=dit["fixed_frames"] or tangoflux.TangoFluxConfig.audio_seq_len,
        max_duration=dit["max_seconds"],
        text_encoder_name=said.text_encoder_name,
    )
    vae = tangoflux.VaeConfig(
        encoder_hidden_size=codec["encoder_hidden_size"],
        downsampling_ratios=tuple(codec["downsampling_ratios"]),
        channel_multiples=tuple(codec["channel_multiples"]),
        decoder_channels=codec["decoder_channels"],
        decoder_input_channels=codec["latent_channels"],
        audio_channels=codec["audio_channels"],
        sampling_rate=codec["sample_rate"],
    )
    writing.write_json(aside / TANGOFLUX_FOLDER / "config.json", asdict(flux))
    if vae != tangoflux.VaeConfig():
        writing.write_json(aside / TANGOFLUX_FOLDER / "vae_config.json", asdict(vae))


def _released_yaml(said: _Said, tokens: str) -> dict[str, Any]:
    """config.yaml in the release's structure; the classes it names are the release's own (SPEC 2)."""
    width, heard = said.qwen.hidden_size, said.listener_projector
    listener = heard and {
        "_target_": "src.models.tokenizer.modeling_whisper.Whisper_Resampler_llava",
        "token_num": heard["num_tokens"],
        "ori_embed_dim": heard["audio_width"],
        "tgt_embed_dim": heard["planner_width"],
    }
    return {
        "tokenizer": {
            "_target_": "src.models.tokenizer.init_qwen_tokenizer.init_tokenizer",
            "pretrained_model_path": said.language_model,
            "add_tokens_path": tokens,
        },
        "llm_model": {
            "_target_": "src.models.mllm.peft_models.get_peft_model_with_resize_embedding",
            "model": {
                "_target_": "transformers.AutoModelForCausalLM.from_pretrained",
                "pretrained_model_name_or_path": said.language_model,
            },
            "peft_config": {
                "_target_": "peft.LoraConfig",
                "_convert_": "object",
                "r": said.lora.rank,
                "lora_alpha": said.lora.alpha,
                "modules_to_save": list(LORA_LEARNT_WHOLE),
                "target_modules": list(LORA_TARGETS),
                "task_type": "CAUSAL_LM",
                "lora_dropout": said.lora.dropout,
            },
            "vocab_size": said.qwen.vocab_size,
        },
        "agent_model": {
            "_target_": "src.models.mllm.modeling_audiostory_llm.AudioStory_llm.from_pretrained",
            "input_resampler": None,
            "output_resampler": None,
            "whisper_resampler_llava": listener,
            "t5_feature_scale": said.bridge["feature_scale"],
            "model_dims": width,
            "mse": True,
        },
        "seedx_dit_model_cfg": {
            "_target_": "src.models.mllm.modeling_audiostory_unified.AudioStory_unified",
            "rec_loss_type": "mse",
            "model_dims": width,
            **{scale: said.loss_weights[name] for name, scale in LOSS_SCALES.items()},
        },
        "train_dataset": {
            "datapipes": [
                {"num_t5_out_tokens": said.bridge["num_semantic"], "num_aud_out_tokens": said.bridge["num_residual"]}
            ]
        },
    }


def _open(folder: Path, said: _Said, model: Path, flux_folder: Path, progress: bool) -> dict[str, build.Source]:
    """The folder's tensors, once they are seen to be those of the networks that a reader of the released
    configurations will build."""
    components = [name for name in STEMS if name != "listener_projector" or said.listener_projector]
    opened = {name: files.open_weights(folder / name, (f"{STEMS[name]}.safetensors",), progress) for name in components}
    theirs = {
        renamed: shape
        for name, tensors in opened.items()
        for stored, shape in tensors.shapes.items()
        if (renamed := released.RELEASED.to_theirs(f"{name}/{stored}")) is not None
    }
    vae_shapes = {stored.removeprefix("vae."): shape for stored, shape in opened["codec"].shapes.items()}
    config, flux = released.read_config(model), tangoflux.read_config(flux_folder)
    vae = tangoflux.read_vae_config(flux_folder)
    empty = released.build_empty(config, flux, vae, said.qwen, said.t5, theirs, folder)
    codec = tangoflux.empty_codec(vae, vae_shapes, folder)
    _check_said("bridge", said.bridge, empty.bridge, folder)
    _check_said("dit", said.dit, empty.dit, folder)
    _check_said("codec", said.codec, codec, folder)
    expected = {**empty.shapes(), **build.shapes_of(codec, "codec/")}
    expected["bridge/unconditional"] = tuple(empty.bridge.unconditional.shape)
    sources = {}
    for name, tensors in opened.items():
        belonging = {wanted: shape for wanted, shape in expected.items() if belongs(wanted, name)}
        sources[name] = build.Source(KeyMap([("{rest}", f"{name}/{{rest}}")]), tensors, belonging, folder / name)
    latents = sources["codec"].tensors
    if latents["latent_mean"].any() or (latents["latent_std"] != 1).any():
        raise ValueError(f"{folder / 'codec'} normalises its latents, which the released layout has no place for")
    return sources


def _check_said(name: str, said: Mapping[str, Any], network: Any, folder: Path) -> None:
    built = _listed(network.config)
    if lost := [f"{key}={value}" for key, value in said.items() if built[key] != value]:
        raise ValueError(
            f"{folder / name / 'config.json'} says {', '.join(lost)}, which the released layout has no place for; "
            "such a model stays in ours"
        )


def _released_tensors(sources: Mapping[str, build.Source]) -> dict[str, Tensor]:
    tensors = _renamed(sources, released.RELEASED)
    aliases = {alias: tensors[original] for alias, original in released.RELEASED.aliases.items()}
    return {**aliases, **tensors}  # an untied head is a tensor of its own


def _renamed(sources: Mapping[str, build.Source], table: KeyMap) -> dict[str, Tensor]:
    """Every tensor that the table has a name for."""
    return {
        renamed: source.tensors[stored]
        for source in sources.values()
        for ours_name, stored in source.report.loaded.items()
        if (renamed := table.to_theirs(ours_name)) is not None
    }
