"""Lines that are written one at a time outlive whoever writes them."""

import pytest

from audiostory.lines import append_line, drop_unfinished, read_lines


def rows(file):
    return [row for _, row in read_lines(file)]


def test_rows_come_back_in_order_whatever_is_in_them(tmp_path):
    written = [{"id": "a", "answer": "a dog"}, {"id": "b", "answer": "two\nlines, Ä\u2028\x85 \x0b"}]
    for row in written:
        append_line(tmp_path / "answers.jsonl", row)
    assert rows(tmp_path / "answers.jsonl") == written


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_line_that_was_cut_is_dropped_and_the_next_one_stands_alone(tmp_path, cut):
    file = tmp_path / "answers.jsonl"
    append_line(file, {"id": "a"})
    append_line(file, {"id": "b"})
    file.write_bytes(file.read_bytes()[:-cut])
    drop_unfinished(file)
    assert rows(file) == [{"id": "a"}]
    append_line(file, {"id": "c"})
    assert rows(file) == [{"id": "a"}, {"id": "c"}]


def test_whole_lines_are_left_as_they_are(tmp_path):
    file = tmp_path / "answers.jsonl"
    drop_unfinished(file)
    assert not file.exists()
    append_line(file, {"id": "a"})
    drop_unfinished(file)
    assert rows(file) == [{"id": "a"}]
