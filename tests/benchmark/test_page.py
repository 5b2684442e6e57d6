"""The page: what it shows, that it is one file, and that no text from outside becomes anything but text."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory import sound
from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.page import Entry, Mark, Page, Telling, html, write
from audiostory.benchmark.paper import TABLES
from audiostory.benchmark.report import Comparison, Report
from audiostory.benchmark.soundworld import Confusion

HALF = bootstrap([[1.0], [0.0]])
NAN = float("nan")
VOID = {"meta", "img", "input"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "' onmouseover='x",
    "</style></title></textarea><!--",
    "&lt;b&gt; &amp; &#x3c;",
    "javascript:alert(1)",
    "\ud800 \x00 \u202e",
]


@dataclass
class Parsed(HTMLParser):
    """The tags with their attributes, all text, and an error for a tag that is not closed."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def shape(self):
        return [(tag, sorted(attributes)) for tag, attributes in self.tags]

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, tag, attribute):
        return [attributes[attribute] for attributes in self.all(tag) if attribute in attributes]


def parse(text: str) -> Parsed:
    parsed = Parsed()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    return parsed


def report(words: str = "some words") -> Report:
    return Report(
        title=words,
        columns={"told": {words: HALF, "ear FD": Score(mean=2.0, low=NAN, high=NAN, num=2)}},
        about={"told": words},
        notes=[words],
        hardest={words: [Confusion(name=words, num=2, right=1, mistaken_for={words: 1})]},
        facts={"note": words},
        beside_paper=[Comparison(table=TABLES[4], measured={words: {words: HALF}})],
    )


def page(words: str = "some words", audio: Path | None = None) -> Page:
    """All that can hold words of others holds these."""
    told = Telling(
        captions=[words, "rain"],
        starts=[0.0, 1.5],
        seconds=[1.5, 2.0],
        audio=audio,
        scores={words: 0.5, "length": 0.1},
        marks=[Mark(right=True, heard=words), Mark(right=False, heard="wind")],
    )
    stories = [
        Entry(id=words, instruction=words, tellings={words: told, "other": Telling(reason=words)}),
        Entry(id="b", instruction="second", tellings={"other": Telling(scores={"length": NAN})}),
    ]
    return Page(report=report(words), stories=stories)


def beep(file: Path, seconds: float = 1.0) -> Path:
    samples = np.sin(np.arange(round(8000 * seconds)) / 3).astype(np.float32)
    sound.write(file, sound.Waveform(samples=samples, sample_rate=8000))
    return file


@settings(deadline=None)
@given(st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(codec=None), min_size=1)))
def test_words_from_outside_stay_words(words):
    plain = html(page(audio=Path("a.wav")), {Path("a.wav"): ("a.wav", "a.png")})
    other = html(page(words, audio=Path("a.wav")), {Path("a.wav"): ("a.wav", "a.png")})
    found = parse(other)
    assert found.shape == parse(plain).shape
    kept = words.encode("utf-8", "replace").decode()
    shown = "".join(found.text)
    # The parser counts a line feed for a carriage return, as browsers do.
    assert shown.replace("\r\n", "\n").replace("\r", "\n").count(kept.replace("\r\n", "\n").replace("\r", "\n")) >= 10


@pytest.mark.parametrize("words", HOSTILE)
def test_a_page_of_hostile_words_is_written_with_hostile_names_of_files(words, tmp_path):
    """Folders too have names by others: "a:b" would be a protocol, "%2e" another file, "#" and "?" end a path."""
    folder = tmp_path / "out"
    name = words.encode("utf-8", "replace").decode().replace("/", "").replace("\x00", "")
    audio = beep(folder / "told" / f"a:b #?%2e {name}" / "story.wav")
    parsed = parse(write(folder, page(words, audio)).read_text(encoding="utf-8"))
    for tag in ("audio", "img"):
        (address,) = parsed.inside(tag, "src")
        parts = urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        assert (folder / unquote(parts.path)).is_file()


def test_a_sound_outside_is_linked_by_a_relative_path_and_a_spectrogram_is_made_inside(tmp_path):
    folder, audio = tmp_path / "runs" / "out", beep(tmp_path / "corpus" / "story.wav")
    text = write(folder, page(audio=audio)).read_text(encoding="utf-8")
    parsed = parse(text)
    assert parsed.inside("audio", "src") == ["../../corpus/story.wav"]
    assert parsed.inside("audio", "preload") == ["none"]
    (picture,) = parsed.inside("img", "src")
    assert picture.startswith("spectrograms/")
    header = (folder / picture).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (800, 160)
    assert str(tmp_path) not in text


def test_the_page_needs_nothing_from_outside():
    text = html(page(), {})
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    parsed = parse(text)
    assert parsed.all("link") == []
    assert parsed.all("script") == [{}]
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]


def test_a_spectrogram_is_drawn_again_only_for_a_newer_sound(tmp_path):
    audio = beep(tmp_path / "story.wav")

    def drawn() -> tuple[int, bytes]:
        (address,) = parse(write(tmp_path, page(audio=audio)).read_text(encoding="utf-8")).inside("img", "src")
        return (tmp_path / address).stat().st_mtime_ns, (tmp_path / address).read_bytes()

    first = drawn()
    assert drawn() == first
    samples = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    sound.write(audio, sound.Waveform(samples=samples, sample_rate=8000))
    os.utime(audio, (2e9, 2e9))
    assert drawn()[1] != first[1]


def test_a_story_shows_its_events_what_was_heard_and_why_it_failed():
    parsed = parse(html(page(), {Path("a.wav"): ("a.wav", "a.png")}))
    text = "".join(parsed.text)
    assert "0.0 to 1.5 s" in text
    assert "✓ heard as some words" in text
    assert "✗ heard as wind" in text
    assert parsed.inside("button", "data-at") == ["0.000", "1.500"]
    assert "reason words" in [attributes.get("class") for attributes in parsed.all("p")]
    assert parsed.all("audio") == []


def test_every_figure_of_a_story_can_be_sorted_by_and_one_that_is_missing_is_null():
    parsed = parse(html(page(), {}))
    scores = [json.loads(value) for value in parsed.inside("article", "data-scores")]
    assert scores == [[0.5, 0.1, None], [None, None, None]]
    assert parsed.inside("option", "value") == ["", "0", "1", "2"]
    assert parsed.inside("button", "data-by") == ["0", "1", "2"]


def test_the_table_and_the_papers_stand_above_the_stories():
    text = "".join(parse(html(page(), {})).text)
    for words in (
        "0.500 (0.000 to 1.000)",
        "2.000",
        "How to read the table",
        "reported",
        "measured here",
        "4.13",
        "heard worst",
    ):
        assert words in text
    assert "*reported*" not in text


def test_a_page_without_stories_is_a_page(tmp_path):
    write(tmp_path, Page(report=report(), stories=[]))
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_marks_of_another_number_of_events_are_noticed():
    with pytest.raises(AssertionError, match="1 marks for 2 events"):
        Telling(captions=["a", "b"], starts=[0, 1], seconds=[1, 1], marks=[Mark(right=True, heard="a")])
