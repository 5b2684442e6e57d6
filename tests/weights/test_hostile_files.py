"""Files that were damaged, mixed up or made to harm: each is refused in a moment, with the file, the reason and what to
do, and none is run."""

from __future__ import annotations

import json
import logging
import pickle
import re
import resource
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import golden_weights
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from audiostory.disk import sha256
from audiostory.model import tiny
from audiostory.weights import build, files, huggingface, ours, released, tangoflux
from audiostory.weights.keymap import KeyMap

WEIGHTS = "ckpt/audiostory-tiny/pytorch_model.bin"
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(7)}
HUGE = 10**12


@contextmanager
def refused(message: str, *named: object) -> Iterator[None]:
    """A ValueError on one line that names things; in a moment, and without memory for what it refuses."""
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=message or None) as caught:
        yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * (1 if sys.platform == "darwin" else 1024)
    assert time.process_time() - start < 2  # all take less than one where this was written
    assert grown < 100e6
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 1500
    assert re.search(r"copy|fetch|give|write|check|run|put|correct|use", told), told
    for name in named:
        assert str(name) in told


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Iterator[Path]:
    """A file that whoever runs something makes: a pickle's call, or the module `trap`, which can be imported."""
    sprung = tmp_path / "sprung"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/trap.py").write_text(f"open({str(sprung)!r}, 'w')\ndef call(*_, **__): ...\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield sprung
    assert "trap" not in sys.modules
    assert not sprung.exists()


class Opens:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def read(checkpoint: Path) -> released.Released:
    return released.read(golden_weights.folders(checkpoint))


def write_weights(checkpoint: Path, tensors: dict[str, Any]) -> Path:
    path = checkpoint.parent / WEIGHTS
    path.unlink()
    torch.save(tensors, path)
    return path


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_yaml(path: Path, name: str, value: object) -> None:
    config = yaml.safe_load(path.read_text())
    part = config
    *above, last = [int(step) if step.isdigit() else step for step in name.split(".")]
    for step in above:
        part = part[step]
    part[last] = value
    path.write_text(yaml.safe_dump(config))


def repack(path: Path, change: Callable[[str, bytes], bytes] = lambda name, data: data, **options) -> None:
    """Writes a zip anew, with what `change` makes of each entry."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name, data))


# Pickles


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(
    ("save", "message"),
    [(torch.save, "could run code, so it is not opened"), (save_legacy, "no whole torch"), (save_pickle, "no whole")],
)
@pytest.mark.parametrize("place", ["alone", "beside tensors", "as a name"])
def test_a_pickle_that_calls_something_is_not_run(tmp_path, trap, save, message, place):
    path = tmp_path / "pytorch_model.bin"
    content = {"alone": Opens(trap), "beside tensors": {**TENSORS, "c": Opens(trap)}, "as a name": {Opens(trap): 1}}
    save(content[place], path)
    with refused(message, path):
        files.TensorFiles([path])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"c": 3}, "holds 'c', expected names with dense tensors"),
        ({"c": "text"}, "holds 'c', expected"),
        ({"c": [torch.ones(2)]}, "holds 'c', expected"),
        ({"state_dict": TENSORS}, "holds 'state_dict', expected"),
        ({7: torch.ones(2)}, "holds 7, expected"),
        ({"c": torch.ones(2, device="meta")}, "holds 'c', expected"),
        ({"c": torch.ones(2, 2).to_sparse()}, "holds 'c', expected"),
        ({"c": torch.ones(1).expand(10**6, 10**6)}, "holds 'c', expected"),
        ({str(number): number for number in range(9)}, "holds '0', '1', '2', '3', '4', expected"),
        ({"c": torch.nn.Linear(1, 1)}, "holds more than tensors"),
        ({"c": Path("x")}, "holds more than tensors"),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_its_name(tmp_path, more, message):
    path = tmp_path / "pytorch_model.bin"
    torch.save({**TENSORS, **more}, path)
    with refused(message, path):
        files.TensorFiles([path])


def test_many_views_of_the_same_numbers_are_refused(tmp_path):
    path, numbers = tmp_path / "pytorch_model.bin", torch.ones(2, 1000)
    torch.save({str(index): numbers for index in range(100)}, path)
    assert len(files.TensorFiles([path])) == 100  # aliases stand for no more than one
    torch.save({"first": numbers[0], "second": numbers[1]}, path)
    assert len(files.TensorFiles([path])) == 2
    torch.save({str(index): numbers.view(-1)[index:] for index in range(100)}, path)
    with refused(r"unfold into [\d,]+ bytes, the file has", path):
        files.TensorFiles([path])


@pytest.mark.parametrize("content", [torch.ones(2), [torch.ones(2)], 3, None])
def test_tensors_without_names_are_refused(tmp_path, content):
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path)
    with refused("expected named tensors", path):
        files.TensorFiles([path])


def test_a_packed_file_is_not_unpacked(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"zeros": torch.zeros(10**6)}, path)
    repack(path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    with refused("packed in a way that torch does not write", path):
        files.TensorFiles([path])


def test_an_overlong_pickle_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    monkeypatch.setattr(files, "LARGEST_PICKLE", 100)
    with refused("packed in a way that torch does not write", path):
        files.TensorFiles([path])


def test_a_zip_of_something_else_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.xml", "<x/>")
    with refused("cannot be read", path):
        files.TensorFiles([path])


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    seven, many = b"K\x07", b"M\xff\xff"  # in the pickle, as the size of b and of its storage
    repack(path, lambda name, data: data.replace(seven, many) if name.endswith("data.pkl") else data)
    with refused("cannot be read|expected names with dense tensors", path):
        files.TensorFiles([path])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damage_anywhere_in_a_pickle_gives_a_reason_or_tensors(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        length = next(entry.file_size for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
        text = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    start = whole.index(text)
    outcomes = set()
    for place in range(start, start + length):
        byte = (0x00, 0xFF, whole[place] ^ 0x01)[place % 3]
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        try:
            tensors = files.TensorFiles([path])
            outcomes.add("tensors")
            assert all(tensors[name].numel() <= 7 for name in tensors)
        except ValueError as error:
            outcomes.add("refused")
            assert str(path) in str(error)  # noqa: PT017
    assert outcomes == {"tensors", "refused"}


# Files that were cut, mixed up or not fetched


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_truncated_file_is_refused(tmp_path, name, kept):
    path = tmp_path / name
    (torch.save if path.suffix == ".bin" else save_file)(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with refused(
        r"cut off, damaged|does not begin as|header promises [\d,]+ bytes, the file has", path, "copy it again"
    ):
        files.open_weights(tmp_path, [name])


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 10**5,
        b'{"a": 3}',
        b'{"a": {}}',
        b'{"a": {"data_offsets": [0, "x"]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 10000000000000]}}',
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
    ],
)
def test_a_false_safetensors_header_is_refused(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with refused("does not begin as|cannot be read as safetensors|header promises", path, "copy it again"):
        files.open_weights(tmp_path, [path.name])


def test_a_safetensors_header_of_absurd_length_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(100))
    with refused("does not begin as a safetensors file", path):
        files.open_weights(tmp_path, [path.name])


@pytest.mark.parametrize(("name", "message"), [("model.safetensors", "git lfs pull"), ("pytorch_model.bin", "git lfs")])
def test_a_git_lfs_pointer_says_what_to_run(tmp_path, name, message):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 38799995\n")
    with refused(message, tmp_path / name):
        files.open_weights(tmp_path, [name])


def checksums(folder: Path, *paths: Path) -> None:
    (folder / files.CHECKSUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in paths))


def test_a_flipped_byte_is_seen_where_checksums_are_given(checkpoint):
    path = checkpoint.parent / WEIGHTS
    checksums(path.parent, path)
    read(checkpoint)
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.unlink()
    path.write_bytes(flipped)
    with refused("is not the file that SHA256SUMS describes: it was changed or damaged", path):
        read(checkpoint)
    (path.parent / files.CHECKSUMS).unlink()
    read(checkpoint)  # nobody can tell


@pytest.mark.parametrize("name", ["*{}", " {}", " ./{}"])
def test_checksums_are_read_as_sha256sum_prints_them(tmp_path, name):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    own = f"{'0' * 64}  {files.CHECKSUMS}\n"  # which cannot be known, and is listed when the command is run again
    (tmp_path / files.CHECKSUMS).write_text(f"{own}{sha256(path)} {name.format(path.name)}\n")
    assert set(files.open_weights(tmp_path, [path.name], progress=False)) == {"a", "b"}
    (tmp_path / files.CHECKSUMS).write_text(f"{'0' * 64} {name.format(path.name)}\n")
    with refused("is not the file that SHA256SUMS describes", path):
        files.open_weights(tmp_path, [path.name], progress=False)


def test_configurations_are_compared_with_the_checksums_too(checkpoint):
    config = checkpoint / "audiostory-tiny/config.yaml"
    checksums(config.parent, config, checkpoint.parent / WEIGHTS)
    edit_yaml(config, "llm_model.peft_config.lora_alpha", 7)
    with refused("is not the file that SHA256SUMS describes", config):
        read(checkpoint)


def test_a_file_that_the_checksums_list_and_the_folder_lacks_is_named(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    (tmp_path / files.CHECKSUMS).write_text(f"{sha256(path)}  {path.name}\n{'0' * 64}  config.yaml\n")
    with refused("lacks 'config.yaml', which SHA256SUMS lists", tmp_path):
        files.open_weights(tmp_path, [path.name], progress=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{'0' * 64}  a\n{'1' * 64}  ./a", "gives './a' two checksums"),
        ("garbage", "holds 'garbage', expected lines as sha256sum prints them"),
        (f"{'g' * 64}  pytorch_model.bin", "expected lines as sha256sum"),
        (f"{'0' * 63}  pytorch_model.bin", "expected lines as sha256sum"),
        (f"{'0' * 64}pytorch_model.bin", "expected lines as sha256sum"),
        (f"{'0' * 64}  ", "expected lines as sha256sum"),
        ("x" * 10**5, "expected lines as sha256sum"),
        (f"{'0' * 64}  ../pytorch_model.bin", "names the path '../pytorch_model.bin', which may lead out"),
        (f"{'0' * 64}  /etc/passwd", "names the path '/etc/passwd', which may lead out"),
        (f"{'0' * 64}  a\\b", "which may lead out"),
    ],
)
def test_malformed_checksums_are_refused(tmp_path, line, message):
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    (tmp_path / files.CHECKSUMS).write_text(line + "\n")
    with refused(message, tmp_path / files.CHECKSUMS):
        files.open_weights(tmp_path, ["pytorch_model.bin"], progress=False)


def save_shards(folder: Path, first: dict, second: dict, suffix: str = ".safetensors", **index) -> None:
    name = {".safetensors": "model", ".bin": "pytorch_model"}[suffix] + suffix
    shards = [name.replace(".", f"-0000{number}-of-00002.") for number in (1, 2)]
    for shard, tensors in zip(shards, (first, second), strict=True):
        (torch.save if suffix == ".bin" else save_file)(tensors, folder / shard)
    weight_map = {**dict.fromkeys(first, shards[0]), **dict.fromkeys(second, shards[1]), **index}
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_one_mapping(tmp_path, suffix):
    save_shards(tmp_path, {"a": TENSORS["a"]}, {"b": TENSORS["b"]}, suffix)
    tensors = files.open_weights(tmp_path, huggingface.WEIGHT_FILES)
    assert tensors.shapes == {"a": (2, 3), "b": (7,)}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert tensors.num_bytes == sum(path.stat().st_size for path in tmp_path.glob(f"*{suffix}"))


def test_an_absent_shard_is_named(tmp_path):
    save_shards(tmp_path, {"a": TENSORS["a"]}, {"b": TENSORS["b"]})
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with refused("lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names", tmp_path):
        files.open_weights(tmp_path, huggingface.WEIGHT_FILES)


def test_a_tensor_in_two_shards_is_named(tmp_path):
    save_shards(tmp_path, {"a": TENSORS["a"]}, TENSORS, a="model-00001-of-00002.safetensors")
    with refused("repeats a, which another file", tmp_path / "model-00002-of-00002.safetensors"):
        files.open_weights(tmp_path, huggingface.WEIGHT_FILES)


OUTSIDE = ["../x", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "C:x", "", "a\0b", "a\nb", 3, None, ["x"], {"x": 1}]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_shard_outside_the_folder_is_not_followed(tmp_path, name):
    save_shards(tmp_path, {"a": TENSORS["a"]}, {"b": TENSORS["b"]}, c=name)
    with refused("names the path .*, which may lead out", tmp_path / "model.safetensors.index.json"):
        files.open_weights(tmp_path, huggingface.WEIGHT_FILES)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{}", "has no weight_map"),
        ('{"weight_map": []}', "has no weight_map"),
        ("[]", "a list, expected a JSON object"),
    ],
)
def test_an_index_without_shards_is_refused(tmp_path, index, message):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with refused(message, tmp_path / "model.safetensors.index.json"):
        files.open_weights(tmp_path, huggingface.WEIGHT_FILES)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    with refused("expected model.safetensors or pytorch_model.bin", tmp_path):
        files.open_weights(tmp_path, huggingface.WEIGHT_FILES)


# Tensors that are not what the configuration describes

PROJECTOR = "seedx.projector.0."
TABLE, HEAD = (f"seedx.llm.base_model.model.{name}.weight" for name in ("model.embed_tokens", "lm_head"))


def exchanged(tensors: dict[str, Any]) -> None:
    one, other = f"{PROJECTOR}weight", f"{PROJECTOR}bias"
    tensors[one], tensors[other] = tensors[other], tensors[one]


MIXED_UP: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "exchanged": (exchanged, r"2 misshaped: seedx\.projector\.0\.\w+ .*, expected .*, seedx\.projector\.0\.\w+ "),
    "transposed": (
        lambda t: t.update({f"{PROJECTOR}weight": t[f"{PROJECTOR}weight"].T}),
        r"1 misshaped: seedx\.projector\.0\.weight \[64, 1024\], expected \[1024, 64\]",
    ),
    "flattened": (
        lambda t: t.update({f"{PROJECTOR}weight": t[f"{PROJECTOR}weight"].flatten()}),
        r"1 misshaped: .* \[65536\], expected \[1024, 64\]",
    ),
    "extra": (lambda t: t.update(more=torch.ones(1)), r"1 unexpected: more\."),
    "missing": (lambda t: t.pop(f"{PROJECTOR}bias"), r"1 missing: seedx\.projector\.0\.bias\."),
    "all missing": (lambda t: t.clear(), "the configuration says 3 layers .* the weights hold 0"),
    "both spellings": (
        lambda t: t.update({f"{TABLE[:-16]}layers.0.self_attn.q_proj.base_layer.weight": torch.ones(64, 64)}),
        "1 unexpected: .*base_layer",
    ),
    "another head": (lambda t: t.update({HEAD: t[HEAD] + 1}), f"{HEAD} should repeat {TABLE} and does not"),
    "a head of another kind": (lambda t: t.update({HEAD: t[HEAD].half()}), f"{HEAD} should repeat {TABLE}"),
    "a head of another shape": (
        lambda t: t.update({HEAD: t[HEAD][:-1].clone()}),
        r"1 misshaped: .*lm_head.weight \[387, 64\]",
    ),
    "whole numbers": (
        lambda t: t.update({f"{PROJECTOR}bias": torch.ones(1024, dtype=torch.int8)}),
        f"{PROJECTOR}bias holds torch.int8, expected floating-point",
    ),
    "complex numbers": (
        lambda t: t.update({f"{PROJECTOR}bias": torch.ones(1024, dtype=torch.complex64)}),
        f"{PROJECTOR}bias holds torch.complex64, expected floating-point",
    ),
}


@pytest.mark.parametrize("kind", MIXED_UP)
def test_weights_of_another_network_are_refused_with_the_tensors(checkpoint, kind):
    change, message = MIXED_UP[kind]
    tensors = dict(golden_weights.tensors(WEIGHTS))
    change(tensors)
    path = write_weights(checkpoint, tensors)
    with refused(message, path.parent):
        read(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_read_and_warned_of_by_name(checkpoint, caplog, value):
    tensors = dict(golden_weights.tensors(WEIGHTS))
    name = f"{PROJECTOR}bias"
    tensors[name] = tensors[name].clone()
    tensors[name][3] = value
    write_weights(checkpoint, tensors)
    with caplog.at_level(logging.WARNING):
        bias = read(checkpoint).bridge.state_dict()["semantic_projector.0.bias"]
    assert torch.equal(bias.nan_to_num(7, 7, 7), tensors[name].nan_to_num(7, 7, 7))
    assert [record.getMessage() for record in caplog.records if name in record.getMessage()] == [
        f"{checkpoint / 'audiostory-tiny'}: {name} holds values that are not finite; what it computes will be noise"
    ]


def test_an_alias_repeats_its_tensor_even_where_that_is_not_a_number(tmp_path):
    tensors = {"table": torch.tensor([[1.0, float("nan")]])}
    save_file({**tensors, "head": tensors["table"].clone()}, tmp_path / "model.safetensors")
    table = KeyMap([("{rest}", "{rest}")], aliases={"head": "table"})
    source = build.Source(table, files.open_weights(tmp_path, ["model.safetensors"]), {"table": (1, 2)}, tmp_path)
    assert source.report.aliased == ("head",)


# Configurations that are no configurations

DEEP = 10**4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":' * DEEP + "1" + "}" * DEEP, "not valid JSON"),
        ("[" * DEEP, "not valid JSON"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"x": {"a": 1, "a": 1}}', "'a' is given twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": ' + "9" * 10**5 + "}", "not valid JSON"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("3", "a int, expected a JSON object"),
        (" " * (1 << 21), "at most 1,048,576 are read"),
        (b"\xff\xfe{}", "not UTF-8"),
    ],
)
def test_bad_json_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with refused(message, path):
        files.read_json(path)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['touch x']", "cannot be read as plain YAML .*python/object/apply"),
        ("a: !!python/name:trap.call", "cannot be read as plain YAML"),
        ("a: !!python/module:trap", "cannot be read as plain YAML"),
        ("a: !!python/object/new:trap.call []", "cannot be read as plain YAML"),
        ("!!python/object:trap.call {}", "cannot be read as plain YAML"),
        ("a: !unknown 3", "cannot be read as plain YAML"),
        (MERGE_BOMB, "merge keys .* are not followed"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("x: {a: 1, a: 1}", "'a' is given twice"),
        ("[" * DEEP, "cannot be read as plain YAML"),
        ("{a: " * DEEP, "cannot be read as plain YAML"),
        ("- " * DEEP, "cannot be read as plain YAML"),
        ("a: " + "9" * DEEP, "cannot be read as plain YAML"),
        ("a: !!int ''", "cannot be read as plain YAML"),
        ("a: !!bool maybe", "cannot be read as plain YAML"),
        ("a: !!timestamp never", "cannot be read as plain YAML"),
        ("a: 2001-99-99", "cannot be read as plain YAML"),
        ("? [a]\n: 1", "cannot be read as plain YAML"),
        ("a: *nobody", "cannot be read as plain YAML"),
        ("a: [", "cannot be read as plain YAML"),
        ("a: \0", "cannot be read as plain YAML"),
        ("a: 1\n---\nb: 2", "cannot be read as plain YAML"),
        ("", "a NoneType, expected a mapping"),
        ("- a", "a list, expected a mapping"),
        ("a: 1\n" + "#" * (1 << 21), "at most 262,144 are read"),
        ("a: [" + "1, " * 10000, "cannot be read as plain YAML"),
    ],
)
def test_bad_yaml_is_refused(tmp_path, trap, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with refused(message, path):
        files.read_yaml(path)


def test_yaml_that_repeats_itself_without_end_takes_no_memory(tmp_path):
    (tmp_path / "config.yaml").write_text(BOMB + "agent_model: {model_dims: *a39}\nloop: &loop [*loop]\n")
    assert files.read_yaml(tmp_path / "config.yaml")["a0"] == ["x", "x"]
    with refused(r"agent_model.model_dims is \[\[\[", tmp_path / "config.yaml"):
        released.read_config(tmp_path)


def blocks(part: Any) -> Iterator[dict]:
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from blocks(value)
    elif isinstance(part, list):
        for value in part:
            yield from blocks(value)


@pytest.mark.parametrize("target", ["trap.call", "os.system", "builtins.exec"])
def test_what_config_yaml_names_to_import_and_call_is_passed_over(checkpoint, trap, target):
    path = checkpoint / "audiostory-tiny/config.yaml"
    before = released.read_config(path.parent)
    config = yaml.safe_load(path.read_text())
    for block in list(blocks(config)):
        block.update(_target_=target, _args_=[f"touch {trap}"], command=f"touch {trap}", _recursive_=True)
    path.write_text(yaml.safe_dump(config))
    assert released.read_config(path.parent) == before
    read(checkpoint)


@pytest.mark.parametrize("folder", ["Qwen-tiny", "flan-t5-tiny"])
def test_what_config_json_names_to_import_or_fetch_is_passed_over(checkpoint, trap, folder):
    reader = huggingface.qwen_config if folder == "Qwen-tiny" else huggingface.t5_config
    before = reader(checkpoint / folder).to_dict()
    edit(
        checkpoint / folder / "config.json",
        auto_map={"AutoConfig": "trap.call", "AutoModel": "trap.call"},
        architectures=["trap.call"],
        attn_implementation="somebody/kernel",
        _attn_implementation="somebody/kernel",
        _attn_implementation_internal="somebody/kernel",
        _experts_implementation="somebody/kernel",
        quantization_config={"quant_method": "trap.call"},
        dtype="trap",
        torch_dtype="trap",
        transformers_version="trap",
        _name_or_path="somebody/model",
        _commit_hash="trap",
        id2label={str(number): "x" for number in range(1000)},
        num_labels=HUGE,
        output_attentions=True,
        use_cache=False,
        is_decoder=True,
    )
    assert reader(checkpoint / folder).to_dict() == before
    read(checkpoint)


@pytest.mark.parametrize("path", ["/etc", "/", "../../x", "ckpt/../../x", "..", "C:\\x", "C:x", "a\\b", "a\nb", "a\0b"])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("audiostory-tiny/config.yaml", "tokenizer.add_tokens_path"),
        ("audiostory-tiny/config.yaml", "llm_model.model.pretrained_model_name_or_path"),
        ("Flux_detokenizer/config.json", "text_encoder_name"),
    ],
)
def test_a_path_that_leads_out_is_not_followed(checkpoint, file, name, path):
    if file.endswith(".yaml"):
        edit_yaml(checkpoint / file, name, path)
    else:
        edit(checkpoint / file, **{name: path})
    with refused("names the path .*, which may lead out of its folder and is not followed", checkpoint / file):
        read(checkpoint)


YAML_SIZES = [
    "llm_model.vocab_size",
    "llm_model.peft_config.r",
    "llm_model.peft_config.lora_alpha",
    "agent_model.model_dims",
    "agent_model.whisper_resampler_llava.token_num",
    "agent_model.whisper_resampler_llava.ori_embed_dim",
    "agent_model.whisper_resampler_llava.tgt_embed_dim",
    "train_dataset.datapipes.0.num_t5_out_tokens",
    "train_dataset.datapipes.0.num_aud_out_tokens",
]
YAML_NUMBERS = [
    "agent_model.t5_feature_scale",
    "llm_model.peft_config.lora_dropout",
    "seedx_dit_model_cfg.lm_loss_scale",
    "seedx_dit_model_cfg.rec_loss_scale",
    "seedx_dit_model_cfg.dit_loss_scale",
]
YAML_TEXTS = [
    "tokenizer.pretrained_model_path",
    "tokenizer.add_tokens_path",
    "llm_model.model.pretrained_model_name_or_path",
]
NO_SIZES = ["3", "", True, False, -1, 0, 1.5, [], {}, [3], HUGE, 10**400, float("nan"), float("inf")]
NO_NUMBERS = ["3", True, -1.0, [], {}, HUGE, 10**400, float("nan"), float("inf"), None]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, [*NO_SIZES, None]) for name in YAML_SIZES),
        *((name, NO_NUMBERS) for name in YAML_NUMBERS),
        *((name, [3, True, "", [], {}, None]) for name in YAML_TEXTS),
    ],
)
def test_values_of_another_kind_in_config_yaml_are_refused(tmp_path, name, values):
    path = tmp_path / "config.yaml"
    for value in values:
        path.write_bytes((golden_weights.GOLDEN / "ckpt_static/audiostory-tiny/config.yaml").read_bytes())
        edit_yaml(path, name, value)
        with refused("expected|only .* is known|cannot be read as plain YAML", path):
            released.read_config(tmp_path)


def json_cases() -> Iterator[tuple[str, Callable[[Path], object], str, list]]:
    flux = "Flux_detokenizer/config.json"
    for name in json.loads((golden_weights.GOLDEN / "ckpt_static" / flux).read_text()):
        values = {"max_duration": NO_NUMBERS, "uncondition": ["no", 1, None], "text_encoder_name": [3, None, [], True]}
        yield flux, tangoflux.read_config, name, values.get(name, [*NO_SIZES, None])
    vae = "Flux_detokenizer/vae_config.json"
    for name in json.loads((golden_weights.GOLDEN / "ckpt_static" / vae).read_text()):
        several = name in ("downsampling_ratios", "channel_multiples")
        no_lists = [4, "2", {}, [], [2] * 17, [2] * 10**5, *([value, 4, 4] for value in NO_SIZES)]
        yield vae, tangoflux.read_vae_config, name, no_lists if several else [*NO_SIZES, None]
    qwen, t5 = "Qwen-tiny/config.json", "flan-t5-tiny/config.json"
    for file, reader, sizes in (
        (qwen, huggingface.qwen_config, huggingface.QWEN_SIZES),
        (t5, huggingface.t5_config, huggingface.T5_SIZES),
    ):
        yield file, reader, "model_type", ["llama", 3, None, [], {}]
        for name in sizes.split():
            yield file, reader, name, NO_SIZES
    yield qwen, huggingface.qwen_config, "hidden_act", [3, None, []]
    yield qwen, huggingface.qwen_config, "rms_norm_eps", ["x", True, -1.0, None, float("nan")]
    yield qwen, huggingface.qwen_config, "tie_word_embeddings", ["x", 3, None]
    yield qwen, huggingface.qwen_config, "layer_types", ["x", [3], 3]
    yield t5, huggingface.t5_config, "layer_norm_epsilon", ["x", True, -1.0, None, float("nan")]
    yield t5, huggingface.t5_config, "feed_forward_proj", [3, None, "a-b-c"]
    penalties = ["x", True, -1.0, 0, None, float("nan"), HUGE]
    yield "Qwen-tiny/generation_config.json", huggingface.repetition_penalty, "repetition_penalty", penalties


@pytest.mark.parametrize(("file", "reader", "name", "values"), list(json_cases()), ids=lambda case: str(case)[:40])
def test_values_of_another_kind_in_a_json_configuration_are_refused(tmp_path, file, reader, name, values):
    path = tmp_path / Path(file).name
    for value in values:
        path.write_bytes((golden_weights.GOLDEN / "ckpt_static" / file).read_bytes())
        edit(path, **{name: value})
        with refused("", path):
            reader(tmp_path)


# Sizes that no check by itself refuses; `1 << 20` is the largest that a configuration may name.
WIDE = 1 << 20
ABSURD = [
    ("Qwen-tiny/config.json", "num_hidden_layers", 10**6),
    ("Qwen-tiny/config.json", "num_hidden_layers", HUGE),
    ("Qwen-tiny/config.json", "head_dim", 10**9),
    ("Qwen-tiny/config.json", "head_dim", WIDE),
    ("Qwen-tiny/config.json", "hidden_size", HUGE),
    ("Qwen-tiny/config.json", "hidden_size", WIDE),
    ("Qwen-tiny/config.json", "intermediate_size", WIDE),
    ("Qwen-tiny/config.json", "num_attention_heads", WIDE),
    ("Qwen-tiny/config.json", "num_key_value_heads", WIDE),
    ("flan-t5-tiny/config.json", "num_layers", 10**6),
    ("flan-t5-tiny/config.json", "d_model", WIDE),
    ("flan-t5-tiny/config.json", "d_ff", WIDE),
    ("flan-t5-tiny/config.json", "d_kv", WIDE),
    ("flan-t5-tiny/config.json", "num_heads", WIDE),
    ("flan-t5-tiny/config.json", "vocab_size", WIDE),
    ("flan-t5-tiny/config.json", "relative_attention_num_buckets", WIDE),
    ("Flux_detokenizer/config.json", "num_layers", 10**6),
    ("Flux_detokenizer/config.json", "num_single_layers", 10**6),
    ("Flux_detokenizer/config.json", "attention_head_dim", WIDE),
    ("Flux_detokenizer/config.json", "num_attention_heads", WIDE),
    ("Flux_detokenizer/config.json", "joint_attention_dim", WIDE),
    ("Flux_detokenizer/config.json", "in_channels", WIDE),
    ("Flux_detokenizer/vae_config.json", "downsampling_ratios", [2] * 10**5),
    ("Flux_detokenizer/vae_config.json", "downsampling_ratios", [2] * 10**6),
    ("Flux_detokenizer/vae_config.json", "downsampling_ratios", [WIDE] * 3),
    ("Flux_detokenizer/vae_config.json", "downsampling_ratios", [WIDE] * 16),
    ("Flux_detokenizer/vae_config.json", "channel_multiples", [WIDE] * 3),
    ("Flux_detokenizer/vae_config.json", "channel_multiples", [1]),
    ("Flux_detokenizer/vae_config.json", "encoder_hidden_size", WIDE),
    ("Flux_detokenizer/vae_config.json", "decoder_channels", WIDE),
    ("Flux_detokenizer/vae_config.json", "decoder_input_channels", WIDE),
    ("Flux_detokenizer/vae_config.json", "audio_channels", WIDE),
    ("audiostory-tiny/config.yaml", "llm_model.vocab_size", HUGE),
    ("audiostory-tiny/config.yaml", "llm_model.vocab_size", WIDE),
    ("audiostory-tiny/config.yaml", "llm_model.peft_config.r", WIDE),
    ("audiostory-tiny/config.yaml", "agent_model.model_dims", WIDE),
    ("audiostory-tiny/config.yaml", "agent_model.whisper_resampler_llava.ori_embed_dim", WIDE),
    ("audiostory-tiny/config.yaml", "agent_model.whisper_resampler_llava.token_num", 10**9),
    ("audiostory-tiny/config.yaml", "train_dataset.datapipes.0.num_t5_out_tokens", 10**9),
    ("audiostory-tiny/config.yaml", "train_dataset.datapipes.0.num_t5_out_tokens", 500),
    ("audiostory-tiny/config.yaml", "train_dataset.datapipes.0.num_aud_out_tokens", 10**9),
]


@pytest.mark.parametrize(("file", "name", "value"), ABSURD, ids=lambda case: str(case)[:40])
def test_absurd_sizes_are_refused_before_anything_is_built_of_them(checkpoint, file, name, value):
    if file.endswith(".yaml"):
        edit_yaml(checkpoint / file, name, value)
    else:
        edit(checkpoint / file, **{name: value})
    with refused("", checkpoint):
        read(checkpoint)


# Our own folders

MAKERS: dict[str, Callable[[], Any]] = {
    "planner": tiny.planner,
    "bridge": tiny.bridge,
    "dit": tiny.dit,
    "codec": tiny.codec,
    "text_encoder": tiny.text_encoder,
    "audio_encoder": tiny.audio_encoder,
    "listener_projector": tiny.listener_projector,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, make in MAKERS.items():
        make().save_pretrained(tmp_path / "model" / name)
    return tmp_path / "model"


LIBRARY = {
    "auto_map": {"AutoConfig": "trap.call", "AutoModel": "trap.call"},
    "attn_implementation": "evil/kernel",
    "_attn_implementation": "evil/kernel",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
}


@pytest.mark.parametrize("name", ["planner", "text_encoder", "audio_encoder"])
def test_what_our_folders_name_to_import_or_fetch_is_passed_over(folder, trap, name):
    before = ours.read_component(folder, name).state_dict()
    edit(folder / name / "config.json", **LIBRARY, dtype="trap")
    after = ours.read_component(folder, name).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["bridge", "dit", "codec", "listener_projector"])
def test_diffusers_own_notes_are_passed_over(folder, trap, name):
    edit(
        folder / name / "config.json", _attn_implementation="evil/kernel", _name_or_path="a", _use_default_values=["x"]
    )
    ours.read_component(folder, name)


@pytest.mark.parametrize("name", ["bridge", "dit", "codec", "listener_projector"])
@pytest.mark.parametrize("setting", ["auto_map", "attn_implementation", "quantization_config", "num_head"])
def test_what_is_no_argument_of_our_class_is_refused(folder, trap, name, setting):
    edit(folder / name / "config.json", **{setting: LIBRARY.get(setting, 2)})
    with refused(f"sets .*{setting}.*, which a {ours.CLASSES[name].__name__} does not have", folder / name):
        ours.read_component(folder, name)


def our_cases() -> Iterator[tuple[str, str, object]]:
    for name, make in MAKERS.items():
        if name not in ("planner", "text_encoder", "audio_encoder"):
            for argument, value in make().config.items():
                if not argument.startswith("_"):
                    several = isinstance(value, tuple | list)
                    yield from ((name, argument, [no] if several else no) for no in (0, -1, [], {}, HUGE, "x"))
                    yield name, argument, 10**400
    for size in huggingface.QWEN_SIZES.split():
        yield from (("planner", size, no) for no in (0, "x", HUGE, [3]))
    for size in huggingface.T5_SIZES.split():
        yield from (("text_encoder", size, no) for no in (0, "x", HUGE, [3]))
    for size in huggingface.WHISPER_SIZES.split():
        yield from (("audio_encoder", size, no) for no in (0, "x", HUGE, [3]))
    yield "audio_encoder", "encoder_layers", 1000
    yield "audio_encoder", "max_source_positions", WIDE
    yield "audio_encoder", "d_model", WIDE
    yield "planner", "rms_norm_eps", 0
    yield "planner", "vocab_size", 6_000_000
    yield "planner", "vocab_size", WIDE
    yield "planner", "num_hidden_layers", 1000
    yield "planner", "rope_parameters", {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 1e9}
    yield "text_encoder", "num_layers", 1000
    yield "text_encoder", "vocab_size", WIDE
    yield "dit", "num_layers", 1000
    yield "dit", "num_single_layers", 1000
    yield "dit", "axes_dims_rope", [4, 6, 8]
    yield "dit", "axes_dims_rope", [WIDE, WIDE, WIDE]
    yield "dit", "joint_attention_dim", WIDE
    yield "bridge", "num_semantic", WIDE
    yield "codec", "downsampling_ratios", [2, 0]
    yield "codec", "downsampling_ratios", [2] * 16
    yield "codec", "channel_multiples", [1]
    yield "codec", "front", "trap"
    yield "listener_projector", "planner_width", WIDE


OUR_CASES = list(our_cases())


@pytest.mark.parametrize("name", MAKERS)
def test_values_that_no_network_has_are_refused_in_our_folders(folder, name):
    path = folder / name / "config.json"
    whole = path.read_text()
    for part, setting, value in OUR_CASES:
        if part == name:
            path.write_text(json.dumps({**json.loads(whole), setting: value}))
            with refused("", folder / name):
                ours.read_component(folder, name)


def test_a_lora_beside_the_planner_s_weights_is_refused_rather_than_applied_or_overlooked(folder):
    (folder / "planner/adapter_config.json").write_text('{"peft_type": "LORA"}')
    save_file(TENSORS, folder / "planner/adapter_model.safetensors")
    with refused(r"is a LoRA beside .* put it into lora/", folder / "planner/adapter_config.json"):
        ours.read_component(folder, "planner")


@pytest.mark.parametrize("name", MAKERS)
def test_checksums_in_our_folders_cover_the_configuration(folder, name):
    part = folder / name
    checksums(part, *part.iterdir())
    ours.read_component(folder, name)
    edit(part / "config.json", _name_or_path="elsewhere")
    with refused("is not the file that SHA256SUMS describes", part / "config.json"):
        ours.read_component(folder, name)


STRANGE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
ANY_KEY = [*YAML_SIZES, *YAML_NUMBERS, *YAML_TEXTS, "llm_model", "agent_model", "train_dataset.datapipes", "tokenizer"]


@given(st.sampled_from(ANY_KEY), STRANGE)
def test_whatever_stands_in_config_yaml_is_read_or_refused(tmp_path_factory, name, value):
    path = tmp_path_factory.mktemp("strange") / "config.yaml"
    path.write_bytes((golden_weights.GOLDEN / "ckpt_static/audiostory-tiny/config.yaml").read_bytes())
    edit_yaml(path, name, value)
    try:
        released.read_config(path.parent)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
