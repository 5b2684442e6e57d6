"""Rename tables both ways: small ones, and the released checkpoint's over every name of the full-size network."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiostory.weights.keymap import KeyMap, Report
from audiostory.weights.released import RELEASED
from audiostory.weights.tangoflux import VAE

DATA = Path(__file__).parents[1] / "data"
LLM = "seedx.llm.base_model.model."

TABLE = KeyMap(
    [
        ("fixed", "part/constant"),
        ("net.{layer}.norm.{rest}", "norms/{layer}/{rest}"),
        ("net.{rest}", "part/{rest}"),
    ],
    aliases={"head": "net.table"},
    ignored=["{layer}.inv_freq", "old.{rest}"],
    spellings={".base_layer.": "."},
)
EXPECTED = {"part/table": (3, 2), "part/a.bias": (2,), "norms/0/weight": (2,)}
FOUND = {"net.table": (3, 2), "net.a.bias": (2,), "net.0.norm.weight": (2,)}


def names(file: str) -> list[str]:
    lines = (DATA / file).read_text().splitlines()
    return [line.split("\t")[0] for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("net.0.norm.weight", "norms/0/weight"), ("net.a.b.bias", "part/a.b.bias"), ("fixed", "part/constant")],
)
def test_a_rule_renames_both_ways(theirs, ours):
    assert TABLE.to_ours(theirs) == ours
    assert TABLE.to_theirs(ours) == theirs


def test_the_first_rule_that_fits_wins():
    assert TABLE.to_ours("net.0.norm.weight") == "norms/0/weight"
    assert KeyMap(TABLE.rules[::-1]).to_ours("net.0.norm.weight") == "part/0.norm.weight"
    assert TABLE.to_theirs("part/constant") == "fixed"
    assert KeyMap(TABLE.rules[::-1]).to_theirs("part/constant") == "net.constant"


@pytest.mark.parametrize("name", ["", "net.", "nets.a", "fixed.weight", "xfixed", "fixed\n"])
def test_what_no_rule_fits_has_no_name(name):
    assert TABLE.to_ours(name) is None


def test_marks_of_regular_expressions_mean_themselves():
    table = KeyMap([("a.b+({rest})", "c[{rest}]")])
    assert table.to_ours("a.b+(x)") == "c[x]"
    assert table.to_theirs("c[x]") == "a.b+(x)"
    assert table.to_ours("aXb+(x)") is None


def test_a_spelling_is_replaced_before_anything_else():
    assert TABLE.to_ours("net.a.base_layer.bias") == "part/a.bias"
    assert TABLE.to_theirs("part/a.bias") == "net.a.bias"


def test_under_a_prefix_rules_aliases_and_what_is_ignored_get_it():
    table = TABLE.under("all.")
    assert table.to_ours("all.net.a.bias") == "part/a.bias"
    assert table.to_ours("net.a.bias") is None
    assert table.aliases == {"all.head": "all.net.table"}
    assert table.ignores("all.old.x")
    assert not table.ignores("old.x")
    assert table.to_ours("all.net.a.base_layer.bias") == "part/a.bias"


def test_a_sum_of_tables_knows_what_both_know():
    both = TABLE + KeyMap([("more.{rest}", "more/{rest}")], aliases={"again": "more.x"}, ignored=["junk"])
    assert both.to_ours("net.a.bias") == "part/a.bias"
    assert both.to_ours("more.x") == "more/x"
    assert both.aliases == {"head": "net.table", "again": "more.x"}
    assert both.ignores("junk")
    assert both.ignores("old.x")


@pytest.mark.parametrize(("file", "table", "number"), [("keys_full.txt", RELEASED, 1713), ("keys_vae.txt", VAE, 365)])
def test_every_released_name_comes_back_from_ours_and_none_share_one(file, table, number):
    released = names(file)
    assert len(released) == number
    own = [name for name in released if name not in table.aliases]
    ours = {name: table.to_ours(name) for name in own}
    assert None not in ours.values()
    assert len(set(ours.values())) == len(own)
    assert {name: table.to_theirs(renamed) for name, renamed in ours.items()} == {name: name for name in own}
    assert set(table.aliases.values()) <= set(own)


def test_no_released_name_is_ignored():
    assert not [name for name in names("keys_full.txt") if RELEASED.ignores(name)]


PATHS = st.from_regex(r"[a-z_]{1,8}(\.[a-z0-9_]{1,8}){0,3}\.(weight|bias)", fullmatch=True)
LINEARS = st.sampled_from([f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")])
NORMS = st.sampled_from(["input_layernorm", "post_attention_layernorm"])
LAYERS = st.builds("model.layers.{}.".format, st.integers(0, 10**6))
RELEASED_NAMES = st.one_of(
    st.builds(
        "{}{}{}.{}".format,
        st.just(LLM),
        LAYERS,
        LINEARS,
        st.sampled_from(["weight", "bias", "lora_A.default.weight", "lora_B.default.weight"]),
    ),
    st.builds(
        "{}{}.{}.weight".format,
        st.just(LLM),
        st.one_of(st.just("model.norm"), st.builds("{}{}".format, LAYERS, NORMS)),
        st.sampled_from(["original_module", "modules_to_save.default"]),
    ),
    st.builds(
        "{}{}".format,
        st.sampled_from(
            [
                "seedx.projector.",
                "seedx.audio_projector.",
                "seedx.whisper_resampler_llava.aud_projector.",
                "multihead_attention.",
                "tangoflux.transformer.",
                "tangoflux.text_encoder.",
                "tangoflux.fc.0.",
            ]
        ),
        PATHS,
    ),
)


@given(st.lists(RELEASED_NAMES, unique=True))
def test_any_name_of_the_released_kind_comes_back_and_keeps_to_itself(theirs):
    ours = [RELEASED.to_ours(name) for name in theirs]
    assert [RELEASED.to_theirs(str(name)) for name in ours] == theirs
    assert len(set(ours)) == len(theirs)


@given(LAYERS, LINEARS, st.sampled_from(["weight", "bias"]))
def test_current_pefts_base_layer_names_the_same_tensor(layer, linear, kind):
    plain = RELEASED.to_ours(f"{LLM}{layer}{linear}.{kind}")
    assert plain == f"planner/{layer}{linear}.{kind}"
    assert RELEASED.to_ours(f"{LLM}{layer}{linear}.base_layer.{kind}") == plain


def test_a_file_that_holds_what_is_expected_reports_where_it_is():
    report = TABLE.match(FOUND, EXPECTED)
    assert report == Report(
        loaded={"part/table": "net.table", "part/a.bias": "net.a.bias", "norms/0/weight": "net.0.norm.weight"}
    )
    report.check("a file")
    assert str(report) == "3 loaded, 0 aliased, 0 ignored, 0 missing, 0 unexpected, 0 misshaped"


@pytest.mark.parametrize(
    ("present", "loaded", "aliased"),
    [
        (["net.table"], "net.table", ()),
        (["head"], "head", ()),
        (["net.table", "head"], "net.table", ("head",)),
        (["head", "net.table"], "net.table", ("head",)),
    ],
)
def test_a_file_may_hold_either_or_both_names_of_an_alias(present, loaded, aliased):
    report = TABLE.match(dict.fromkeys(present, (3, 2)), {"part/table": (3, 2)})
    assert report.loaded == {"part/table": loaded}
    assert report.aliased == aliased
    report.check("a file")


def test_an_alias_of_another_shape_is_misshaped():
    report = TABLE.match({"net.table": (3, 2), "head": (4, 2)}, {"part/table": (3, 2)})
    assert report.misshaped == ("head [4, 2], but net.table [3, 2]",)


def test_an_aliass_name_that_the_network_has_itself_is_no_alias():
    table = KeyMap([("{rest}", "part/{rest}")], aliases={"head": "table"})
    report = table.match({"table": (3, 2), "head": (4, 2)}, {"part/table": (3, 2), "part/head": (4, 2)})
    assert report == Report(loaded={"part/table": "table", "part/head": "head"})


@pytest.mark.parametrize(
    ("changes", "report"),
    [
        ({"old.thing": (9,), "net.0.inv_freq": (4,)}, {"ignored": ("old.thing", "net.0.inv_freq")}),
        ({"net.a.bias": None}, {"missing": ("net.a.bias",)}),
        ({"net.table": None}, {"missing": ("net.table",)}),
        ({"stranger": (1,)}, {"unexpected": ("stranger",)}),
        ({"net.b": (1,)}, {"unexpected": ("net.b",)}),
        ({"net.a.base_layer.bias": (2,)}, {"unexpected": ("net.a.base_layer.bias",)}),
        ({"net.a.bias": (2, 1)}, {"misshaped": ("net.a.bias [2, 1], expected [2]",)}),
        ({"net.table": (2, 3)}, {"misshaped": ("net.table [2, 3], expected [3, 2]",)}),
        ({"net.table": None, "head": (2, 3)}, {"misshaped": ("head [2, 3], expected [3, 2]",)}),
    ],
)
def test_the_report_lists_what_differs(changes, report):
    found = {name: shape for name, shape in {**FOUND, **changes}.items() if shape is not None}
    told = TABLE.match(found, EXPECTED)
    kinds = ("aliased", "ignored", "missing", "unexpected", "misshaped")
    assert {kind: getattr(told, kind) for kind in kinds if getattr(told, kind)} == report
    if "ignored" in report:
        told.check("a file")
    else:
        (kind, (name,)) = next(iter(report.items()))
        with pytest.raises(ValueError, match="a file does not hold the tensors") as caught:
            told.check("a file")
        assert f"1 {kind}: {name}. Check that configuration and weights belong together" in str(caught.value)


def test_an_error_names_five_of_a_kind_and_counts_the_rest():
    report = Report(loaded={}, missing=tuple("abcdefg"), unexpected=("x",))
    with pytest.raises(ValueError, match=r"7 missing: a, b, c, d, e and 2 more; 1 unexpected: x\. Check"):
        report.check("a file")
    assert str(report) == "0 loaded, 0 aliased, 0 ignored, 7 missing, 1 unexpected, 0 misshaped"
