"""Weights are read strictly, whatever of the published formats they are in, and nothing in them is run."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from audiostory.benchmark.embedders import checkpoints

PUBLISHED = checkpoints.Published(file="weights.pth", project="somewhere.org", megabytes=12)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def same(given, expected):
    return given.keys() == expected.keys() and all(torch.equal(given[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["of today", "of torch before 1.6"])
def test_a_published_file_is_read_with_the_training_state_around_it(tmp_path, zipped):
    """Cnn14's at 16 kHz has arrays of whole numbers beside the model; they are no code, so they may stand there."""
    expected = layers().state_dict()
    content = {"iteration": 5, "model": expected, "sampler": {"indexes": np.arange(7), "pointer": 3}}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    assert same(checkpoints.read(tmp_path / "weights.pth"), expected)


def test_bare_tensors_and_safetensors_are_read_alike(tmp_path):
    expected = layers().state_dict()
    torch.save(expected, tmp_path / "weights.pth")
    save_file(expected, tmp_path / "weights.safetensors")
    assert same(checkpoints.read(tmp_path / "weights.pth"), expected)
    assert same(checkpoints.read(tmp_path / "weights.safetensors"), expected)


class Harm:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"model": {"a": torch.zeros(1)}, "more": Harm()}, tmp_path / "weights.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Harm(), protocol=2))
    for name in ("weights.pth", "bare.pth"):
        with pytest.raises(ValueError, match="cannot be read as weights"):
            checkpoints.read(tmp_path / name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_damaged_file_is_named(tmp_path, name):
    save = save_file if name.endswith("safetensors") else torch.save
    save({"a": torch.zeros(5000)}, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:3000])
    with pytest.raises(ValueError, match=rf"{name} cannot be read as weights \(.+\); fetch it again"):
        checkpoints.read(tmp_path / name)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="does not hold named tensors"):
        checkpoints.read(tmp_path / "weights.pth")


def test_missing_weights_are_told_of_with_where_to_fetch_them_and_what_they_cost(tmp_path):
    expected = r"no weights at .*weights\.pth: fetch weights\.pth \(about 12 MB\) from somewhere\.org"
    for path in (tmp_path, tmp_path / "weights.pth"):
        with pytest.raises(ValueError, match=expected):
            PUBLISHED.find(path)
    (tmp_path / "weights.pth").write_bytes(b"x")
    assert PUBLISHED.find(tmp_path) == PUBLISHED.find(tmp_path / "weights.pth") == tmp_path / "weights.pth"


def test_a_network_is_filled_with_exactly_what_it_needs(tmp_path):
    expected = layers()
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    tensors = expected.state_dict()
    del tensors["1.num_batches_tracked"]
    checkpoints.fill(network, tensors, tmp_path, optional=r"\.num_batches_tracked$")
    x = torch.randn(4, 3)
    torch.testing.assert_close(network(x), expected.eval()(x))
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_does_not_fit_is_listed(tmp_path):
    tensors = layers().state_dict()
    tensors["0.bias"] = torch.zeros(7)
    tensors["stranger"] = tensors.pop("1.weight")
    with pytest.raises(ValueError, match="not the weights of a Sequential") as caught:
        checkpoints.fill(layers(), tensors, tmp_path / "w.pth")
    for part in (r"1 missing: 1.weight", "1 unknown: stranger", "0.bias [7], expected [2]", "w.pth"):
        assert part in str(caught.value)


def test_the_digest_of_one_file_is_its_sha256_and_of_several_depends_on_each(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    assert checkpoints.digest([one]) == hashlib.sha256(b"1").hexdigest()
    both = checkpoints.digest([one, two])
    assert both == checkpoints.digest([two, one])
    two.write_bytes(b"3")
    assert checkpoints.digest([one, two]) != both
