"""What a step has made is found again, and made anew when it should be."""

import pytest

from audiostory.as10k.ledger import Entry, Ledger, digest, sizes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clip.flac").write_bytes(b"12345")
    return tmp_path


def ledger(folder) -> Ledger:
    return Ledger(folder / "work" / "step.jsonl", folder)


def test_what_was_made_is_held_by_the_next_run(folder):
    ledger(folder).add(Entry(key="a", made_of="1", result={"n": 1}, files=sizes(folder, folder / "clip.flac")))
    assert ledger(folder).holds("a", "1")
    assert ledger(folder).entries["a"].result == {"n": 1}
    assert not ledger(folder).holds("a", "2")
    assert not ledger(folder).holds("b", "1")


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"123")])
def test_a_file_that_is_lost_or_cut_is_made_anew(folder, damage):
    ledger(folder).add(Entry(key="a", made_of="1", files=sizes(folder, folder / "clip.flac")))
    damage(folder / "clip.flac")
    assert not ledger(folder).holds("a", "1")


def test_a_line_whose_writing_was_stopped_is_left_out(folder):
    ledger(folder).add(Entry(key="a", made_of="1"))
    with ledger(folder).path.open("a") as stream:
        stream.write('{"key": "b", "made_')
    reopened = ledger(folder)
    reopened.add(Entry(key="c", made_of="1"))
    assert list(ledger(folder).entries) == ["a", "c"]


def test_the_later_of_two_lines_counts_and_keeps_the_order_of_coming(folder):
    for key, made_of in (("a", "1"), ("b", "1"), ("a", "2")):
        ledger(folder).add(Entry(key=key, made_of=made_of))
    assert [(entry.key, entry.made_of) for entry in ledger(folder).entries.values()] == [("b", "1"), ("a", "2")]


def test_names_that_are_no_unicode_survive(folder):
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    ledger(folder).add(Entry(key=name, made_of="1"))
    assert list(ledger(folder).entries) == [name]


def test_a_line_that_is_not_ours_is_named(folder):
    ledger(folder).path.write_text('{"key": "a", "made_of": "1"}\n{"what": 1}\n')
    with pytest.raises(ValueError, match=r"step\.jsonl, line 2 cannot be read .*; delete the file"):
        ledger(folder)


def test_a_digest_depends_on_values_and_not_on_the_order_of_keys():
    assert digest({"a": 1, "b": 2.5}) == digest({"b": 2.5, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
