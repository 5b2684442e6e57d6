"""Networks without memory, and how they get their tensors: built on the meta device, compared with what a checkpoint
holds, then filled tensor by tensor from the mapped file.

Building on the meta device costs nothing for wide layers but something for many, so the number of layers and the width
of a head, which configurations choose freely, are compared with the tensors first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5EncoderModel

from audiostory.model.planner import LoraSettings, Planner
from audiostory.model.text_encoder import TextEncoder
from audiostory.weights.files import TensorFiles, reason
from audiostory.weights.keymap import KeyMap, Report

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str, torch.dtype], Tensor]
"""A tensor by its name, in the dtype that is asked for."""

# The names of a planner whose LoRA is kept apart, in memory (peft) and in our folders (peft's adapter layout).
LORA_APART = KeyMap(
    [
        (
            "language_model.base_model.model.{norm}norm.modules_to_save.default.weight",
            "lora/base_model.model.{norm}norm.weight",
        ),
        ("language_model.base_model.model.{norm}norm.original_module.weight", "{norm}norm.weight"),
        (
            "language_model.base_model.model.{layer}.lora_{half}.default.weight",
            "lora/base_model.model.{layer}.lora_{half}.weight",
        ),
        ("language_model.base_model.model.{layer}.base_layer.{kind}", "{layer}.{kind}"),
        ("language_model.base_model.model.{rest}", "{rest}"),
    ]
)
_PLAIN = KeyMap([("language_model.{rest}", "{rest}")])
_LORA = "lora/base_model.model."


class Source:
    """A checkpoint's tensors under our names, once they are seen to be those that are expected.

    ValueError with the lists for tensors that are missing, unexpected or misshaped, for an alias that differs from the
    tensor it should repeat, and for whole numbers. Tensors with NaN or infinity are read and warned of, by name.

    Tensors stay mapped where they are stored in the dtype that is asked for. `copied` is for folders that may be
    written over while what was read from them is in use.
    """

    def __init__(self, table: KeyMap, tensors: TensorFiles, expected: Shapes, origin: object, *, copied: bool = False):
        self.table, self.tensors, self.origin, self.copied = table, tensors, origin, copied
        self.report: Report = table.match(tensors.shapes, expected)
        self.report.check(origin)
        self.on_read: Callable[[int], object] = lambda num_bytes: None
        for alias in self.report.aliased:
            self._check_alias(alias, table.aliases[alias])

    def __call__(self, ours: str, dtype: torch.dtype) -> Tensor:
        theirs = self.report.loaded[ours]
        stored = self.tensors[theirs]
        if not stored.is_floating_point():
            raise ValueError(
                f"{self.origin}: {theirs} holds {stored.dtype}, expected floating-point numbers; "
                "fetch the weights in bf16, fp16 or fp32"
            )
        self.on_read(stored.nbytes)
        tensor = stored.to(dtype, copy=self.copied)
        if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():  # both ends show NaN; no copy is made
            log.warning("%s: %s holds values that are not finite; what it computes will be noise", self.origin, theirs)
        return tensor

    def under(self, prefix: str) -> Read:
        return lambda name, dtype: self(prefix + name, dtype)

    def _check_alias(self, alias: str, original: str) -> None:
        one, other = self.tensors[alias], self.tensors[original]
        if one.data_ptr() != other.data_ptr() and not torch.equal(_bytes(one), _bytes(other)):
            raise ValueError(
                f"{self.origin}: {alias} should repeat {original} and does not; fetch the weights again, or those of "
                "the network that the configuration describes"
            )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)  # so that NaN equals itself


def shapes_of(part: nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + name: tuple(tensor.shape) for name, tensor in part.state_dict().items()}


def check_layers(count: object, shapes: Shapes, prefix: str, origin: object) -> None:
    """ValueError unless a configuration's number of layers is the number that the weights hold."""
    found = {name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)}
    if count != len(found):
        raise ValueError(
            f"{origin}: the configuration says {count} layers ({prefix}*), the weights hold {len(found)}; "
            "check that they belong together"
        )


def on_meta(build: Callable[[], Any], origin: object) -> Any:
    """What `build` makes, without memory; ValueError for sizes that fit no network."""
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:  # networks check their sizes each in their own way
        raise ValueError(
            f"{origin}: the configuration describes no network ({reason(error)}); copy it again"
        ) from error


def fill(part: nn.Module, read: Read, dtype: torch.dtype, **computed: Tensor) -> Any:
    """Gives a network without memory its tensors, by its own names; `computed` are those that `read` does not have.

    What its class keeps in float32 is so whatever the rest is in, as the DiT's duration embedder (SPEC 9, row 13).
    """
    kept = tuple(f"{module}." for module in getattr(part, "_keep_in_fp32_modules", None) or ())
    names = [name for name in part.state_dict() if name not in computed]
    state = {name: read(name, torch.float32 if name.startswith(kept) else dtype) for name in names}
    part.load_state_dict({**state, **computed}, strict=True, assign=True)
    return part.eval()


def check_planner_sizes(config: Qwen2Config, shapes: Shapes, prefix: str, origin: object) -> None:
    """ValueError unless layers and heads are those of the weights."""
    check_layers(config.num_hidden_layers, shapes, f"{prefix}layers.", origin)
    heads = config.num_attention_heads
    kv_heads = config.num_key_value_heads or heads
    width = head_width(config)
    for projection, rows in (("q_proj", heads * width), ("k_proj", kv_heads * width)):
        found = [shapes.get(f"{prefix}layers.0.self_attn.{projection}{kind}.weight") for kind in ("", ".base_layer")]
        if (rows, config.hidden_size) not in found:
            raise ValueError(
                f"{origin}: the planner's config.json asks for a {projection} of {[rows, config.hidden_size]}, "
                f"the weights hold {next((list(shape) for shape in found if shape), 'none')}; "
                "check that they belong together"
            )


def head_width(config: Qwen2Config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def empty_planner(
    config: Qwen2Config, shapes: Shapes, prefix: str, origin: object, lora: LoraSettings | None = None
) -> Planner:
    """A planner without memory, with LoRA apart if asked. `prefix` stands before "layers.0..." in the shapes' names."""
    check_planner_sizes(config, shapes, prefix, origin)
    planner = on_meta(lambda: Planner(Qwen2ForCausalLM(config)), origin)
    frequencies, width = planner.qwen.model.rotary_emb.inv_freq.numel(), head_width(config)
    if 2 * frequencies != width:  # they are computed, so no tensor of the file bounds them
        raise ValueError(
            f"{origin}: the planner's config.json asks for {frequencies} rotary frequencies, expected {width // 2} for "
            f"heads {width} wide; copy it again"
        )
    if lora is not None:
        on_meta(lambda: planner.add_lora(lora), origin)
    return planner


def planner_shapes(planner: Planner) -> dict[str, tuple[int, ...]]:
    """What a folder of ours holds of it: a Qwen2 folder's names, and under lora/ those of a peft adapter."""
    shapes = shapes_of(planner)
    return {ours: shapes[name] for name, ours in _folder_names(planner).items()}


def fill_planner(planner: Planner, read: Read, dtype: torch.dtype) -> Planner:
    """Gives an empty planner its tensors, which `read` takes by a folder's names."""
    qwen = planner.qwen
    state = {name: read(ours, dtype) for name, ours in _folder_names(planner).items()}
    missing, unexpected = planner.load_state_dict(state, strict=False, assign=True)
    assert not unexpected, unexpected
    assert all(name.endswith("lm_head.weight") for name in missing), missing
    qwen.tie_weights()
    qwen.model.rotary_emb = type(qwen.model.rotary_emb)(config=qwen.config)  # computed, so in no file
    return planner.eval()


def fill_planner_with_lora(
    empty: Planner, read: Read, settings: LoraSettings, dtype: torch.dtype, keep_lora: bool
) -> Planner:
    """An empty planner with LoRA apart gets its tensors; unless `keep_lora`, a plain one gets them merged."""
    if keep_lora:
        return fill_planner(empty, read, dtype)
    with torch.device("meta"):
        plain = Planner(Qwen2ForCausalLM(empty.qwen.config))
    return fill_planner(plain, merging(read, planner_shapes(empty), settings), dtype)


def merging(read: Read, names: Shapes, settings: LoraSettings) -> Read:
    """`read`, with LoRA folded in: W + alpha/rank * B A in float32, and the norms that were learnt instead of the old.

    `names` are all that `read` knows. The result answers to the names of a plain planner.
    """

    def merged(name: str, dtype: torch.dtype) -> Tensor:
        layer = f"{_LORA}{name.removesuffix('.weight')}"
        if f"{_LORA}{name}" in names:
            return read(f"{_LORA}{name}", dtype)
        if not name.endswith(".weight") or f"{layer}.lora_A.weight" not in names:
            return read(name, dtype)
        weight, down, up = (read(n, torch.float32) for n in (name, f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"))
        return torch.addmm(weight, up, down, alpha=settings.alpha / settings.rank).to(dtype)

    return merged


def empty_text_encoder(config: T5Config, shapes: Shapes, prefix: str, origin: object) -> T5EncoderModel:
    """A T5 encoder without memory. `prefix` stands before "encoder.block.0..." in the shapes' names."""
    check_layers(config.num_layers, shapes, f"{prefix}encoder.block.", origin)
    config.dropout_rate = 0.0  # its states are targets
    return on_meta(lambda: T5EncoderModel(config), origin)


def text_encoder_shapes(model: T5EncoderModel, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Without the encoder's alias of the table."""
    return {name: shape for name, shape in shapes_of(model, prefix).items() if not name.endswith("embed_tokens.weight")}


def fill_text_encoder(model: T5EncoderModel, read: Read, tokenizer: Any) -> TextEncoder:
    """In float32, since T5 overflows in half precision."""
    state = {name: read(name, torch.float32) for name in text_encoder_shapes(model)}
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    return TextEncoder(model, tokenizer).eval()


def _folder_names(planner: Planner) -> dict[str, str]:
    """From the names in memory to those in a folder; a tied head is not stored."""
    table = LORA_APART if planner.has_lora else _PLAIN
    names = {name: str(table.to_ours(name)) for name in planner.state_dict()}
    tied = planner.qwen.config.tie_word_embeddings
    return {name: ours for name, ours in names.items() if not (tied and ours == "lm_head.weight")}
