import hashlib

import pytest

from audiostory import disk


def test_a_file_takes_its_place_when_it_is_written_and_its_folder_is_made(tmp_path):
    path = tmp_path / "new/page.txt"
    with disk.replacing(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists()
        unfinished.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_what_was_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "page.txt"
    disk.write_text(path, "before\n")

    def fail_in_the_middle() -> None:
        with disk.replacing(path) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_in_the_middle()
    assert path.read_text() == "before\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_digest_is_of_all_pieces_and_tells_how_far_it_is(tmp_path):
    path, content, seen = tmp_path / "large", bytes(range(256)) * 5000, []
    path.write_bytes(content)
    assert disk.sha256(path, seen.append) == hashlib.sha256(content).hexdigest()
    assert len(seen) == 2
    assert sum(seen) == len(content)


def test_a_folder_takes_the_place_of_the_one_before_or_leaves_it_as_it_was(tmp_path):
    path = tmp_path / "here" / "folder"
    with disk.replacing_folder(path) as unfinished:
        (unfinished / "first").touch()

    def fail_in_the_middle() -> None:
        with disk.replacing_folder(path) as unfinished:
            (unfinished / "second").touch()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_in_the_middle()
    assert [file.name for file in path.iterdir()] == ["first"]
    with disk.replacing_folder(path) as unfinished:
        (unfinished / "third").touch()
    assert [file.name for file in path.iterdir()] == ["third"]
    assert list(path.parent.iterdir()) == [path]
