"""The page on which a person listens: OUTPUT/index.html, one file that a browser opens from disk, without a server.

It holds the table of scores, and a card per story with what each system told: captions, sound, spectrogram, figures.
Sounds stay where they are and are linked by relative paths, so OUTPUT moves together with what it links to. Whatever
comes from manifests and systems is text to the page: it is escaped where it enters, in `_text` and `_link`. No torch
here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from pathlib import Path
from urllib.parse import quote

from tqdm.auto import tqdm

from audiostory import sound
from audiostory.benchmark import paper
from audiostory.benchmark.report import BESIDE_PAPER, Report, confusion_rows, in_words, rows
from audiostory.disk import replacing, write_text

ASSETS = Path(__file__).parents[1] / "assets" / "page"
PICTURES = "spectrograms"
WIDTH, HEIGHT, COLORS = 800, 160, 32  # of a spectrogram; few colours, for a page has hundreds of them

Key = tuple[str, str]  # a system and a measure, by which stories can be sorted


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a listener says of an event: is it what it should be, and as what it is `heard`."""

    right: bool
    heard: str


@dataclass(frozen=True, kw_only=True)
class Telling:
    """What one system made of one story. `starts` and `seconds` are those of its own events, in `audio`; `marks` has
    one per event, or none. One that failed has no events, and the `reason`."""

    captions: Sequence[str] = ()
    starts: Sequence[float] = ()
    seconds: Sequence[float] = ()
    audio: Path | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    marks: Sequence[Mark] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        counts = len(self.captions), len(self.starts), len(self.seconds)
        assert len(set(counts)) == 1, f"captions, starts and seconds of {counts} events"
        assert len(self.marks) in (0, len(self.captions)), f"{len(self.marks)} marks for {counts[0]} events"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One story: what was asked, and what the systems told."""

    id: str
    instruction: str
    tellings: Mapping[str, Telling]


@dataclass(frozen=True, kw_only=True)
class Page:
    """The report stands above the stories, which begin in this order."""

    report: Report
    stories: Sequence[Entry]


def write(folder: Path, page: Page) -> Path:
    """Writes FOLDER/index.html, which is returned, and the spectrograms that are missing or older than their sound.

    FileNotFoundError or ValueError, naming the file, for a sound that cannot be read.
    """
    sounds = dict.fromkeys(t.audio for entry in page.stories for t in entry.tellings.values() if t.audio)
    pictures = {
        audio: _picture(audio, folder) for audio in tqdm(sounds, desc="drawing", unit="spectrogram", disable=not sounds)
    }
    links = {audio: (_link(audio, folder), _link(picture, folder)) for audio, picture in pictures.items()}
    write_text(folder / "index.html", html(page, links))
    return folder / "index.html"


def html(page: Page, links: Mapping[Path, tuple[str, str]]) -> str:
    """The page itself; `links` has for each sound the addresses of the sound and its spectrogram."""
    keys = list(dict.fromkeys((s, m) for e in page.stories for s, t in e.tellings.items() for m in t.scores))
    numbers = {key: number for number, key in enumerate(keys)}
    cards = "".join(_card(count, entry, numbers, links) for count, entry in enumerate(page.stories, 1))
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(page.report.title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{_text(page.report.title)}</h1>
{_scores(page.report)}</header>
<main>
{_tools(keys)}<div id="stories">
{cards}</div>
</main>
<script>
{script}</script>
</body>
</html>
"""


def _scores(report: Report) -> str:
    """The table of the report, and around it what its Markdown has."""
    about = "".join(f"<dt>{_text(system)}</dt><dd>{_text(words)}</dd>" for system, words in report.about.items())
    notes = "".join(f"<li>{_text(note)}</li>" for note in report.notes)
    parts = [
        _table(rows(report.columns)),
        f'<dl class="about">{about}</dl>\n' if about else "",
        f'<ul class="notes">{notes}</ul>\n' if notes else "",
        _folded("How to read the table", _paragraphs(report.how_to_read)),
        *(_folded(f"Sounds heard worst: {name}", _table(confusion_rows(c))) for name, c in report.hardest.items()),
    ]
    if report.beside_paper:
        beside = "".join(_table(paper.rows_beside(e.table, in_words(e.measured))) for e in report.beside_paper)
        parts.append(_folded("Beside the paper", _paragraphs(BESIDE_PAPER) + beside))
    facts = json.dumps(report.facts, indent=1, ensure_ascii=False)
    return "".join([*parts, _folded("Facts", f"<pre>{_text(facts)}</pre>\n")])


def _table(cells: Sequence[Sequence[str]]) -> str:
    head, *body = cells
    lines = "".join(f"<tr><th>{_cell(row[0])}</th>{_cells('td', row[1:])}</tr>\n" for row in body)
    return f'<div class="table"><table>\n<tr>{_cells("th", head)}</tr>\n{lines}</table></div>\n'


def _cells(tag: str, words: Iterable[str]) -> str:
    return "".join(f"<{tag}>{_cell(word)}</{tag}>" for word in words)


def _cell(words: str) -> str:
    return f"<em>{_text(words.strip('*'))}</em>" if words in (paper.REPORTED, paper.MEASURED) else _text(words)


def _folded(title: str, inside: str) -> str:
    return f"<details><summary>{_text(title)}</summary>\n{inside}</details>\n"


def _paragraphs(words: str) -> str:
    """Of plain text; a word between asterisks is a word."""
    return "".join(f"<p>{_text(part)}</p>\n" for part in words.replace("*", "").strip().split("\n\n"))


def _tools(keys: Sequence[Key]) -> str:
    """Filter and order; the script shows them, for without it they do nothing."""
    choices = "".join(
        f'<option value="{number}">{_text(f"{system}: {measure}")}</option>'
        for number, (system, measure) in enumerate(keys)
    )
    return f"""<form id="tools" hidden>
<input id="find" type="search" placeholder="find words" aria-label="show only stories with these words">
<select id="by" aria-label="sort stories by"><option value="">in the order asked</option>{choices}</select>
<button id="turn" type="button">highest first</button>
<output id="count"></output>
</form>
"""


def _card(count: int, entry: Entry, numbers: Mapping[Key, int], links: Mapping[Path, tuple[str, str]]) -> str:
    scores: list[float | None] = [None] * len(numbers)
    for system, telling in entry.tellings.items():
        for measure, value in telling.scores.items():
            scores[numbers[system, measure]] = float(value) if math.isfinite(value) else None
    tellings = "".join(_telling(entry.id, system, told, numbers, links) for system, told in entry.tellings.items())
    return f"""<article data-scores="{_text(json.dumps(scores))}">
<h2><span class="number">{count}</span> <span class="words">{_text(entry.instruction)}</span></h2>
<p class="id words">{_text(entry.id)}</p>
<div class="tellings">
{tellings}</div>
</article>
"""


def _telling(
    id: str, system: str, told: Telling, numbers: Mapping[Key, int], links: Mapping[Path, tuple[str, str]]
) -> str:
    sounding = ""
    if told.audio:
        audio, picture = links[told.audio]
        sounding = f"""<div class="picture"><img src="{picture}" width="{WIDTH}" height="{HEIGHT}" loading="lazy" \
alt="spectrogram of {_text(system)}, {_text(id)}"><i></i></div>
<audio controls preload="none" src="{audio}"></audio>
"""
    reason = f'<p class="reason words">{_text(told.reason)}</p>\n' if told.reason else ""
    events = "".join(
        _event(caption, start, seconds, mark)
        for caption, start, seconds, mark in zip(
            told.captions, told.starts, told.seconds, told.marks or [None] * len(told.captions), strict=True
        )
    )
    figures = "".join(
        _button("by", str(numbers[system, measure]), f"{_text(measure)} <b>{_figure(value)}</b>") + "\n"
        for measure, value in told.scores.items()
    )
    return f"""<section>
<h3>{_text(system)}</h3>
{reason}{sounding}{f"<ol>{events}</ol>{chr(10)}" if events else ""}\
{f'<div class="figures">{chr(10)}{figures}</div>{chr(10)}' if figures else ""}</section>
"""


def _event(caption: str, start: float, seconds: float, mark: Mark | None) -> str:
    shown = ""
    if mark is not None:
        kind, sign = ("right", "✓") if mark.right else ("wrong", "✗")
        shown = f' <span class="{kind}">{sign} heard as {_text(mark.heard)}</span>'
    times = _button("at", f"{start:.3f}", f"{start:.1f} to {start + seconds:.1f} s")
    return f'<li>{times} <span class="words">{_text(caption)}</span>{shown}</li>\n'


def _button(name: str, value: str, inside: str) -> str:
    """What the script does with it stands in its `data-by` (sort by this figure) or `data-at` (play from there)."""
    return f'<button type="button" data-{name}="{value}">{inside}</button>'


def _figure(value: float) -> str:
    return f"{round(value, 3) + 0.0:g}" if math.isfinite(value) else "-"  # 0.0 takes the sign from -0.0


def _text(words: str) -> str:
    """For element and attribute alike; half a surrogate pair, which JSON can hold and UTF-8 not, becomes "?"."""
    return escape(words.encode("utf-8", "replace").decode("utf-8"), quote=True)


def _link(file: Path, folder: Path) -> str:
    """A relative address. Everything but letters, digits, "_.-~" and "/" is encoded, a colon too, which would otherwise
    make what stands before it the name of a protocol."""
    return quote(os.fsencode(Path(_relative(file, folder)).as_posix()))


def _relative(file: Path, folder: Path) -> str:
    return os.path.relpath(file.resolve(), folder.resolve())


def _picture(audio: Path, folder: Path) -> Path:
    """The spectrogram of a sound, drawn if there is none, or one that is older than the sound."""
    name = sha256(os.fsencode(_relative(audio, folder))).hexdigest()[:16]  # an id may be no name for a file
    file = folder / PICTURES / f"{name}.png"
    if not file.is_file() or (audio.is_file() and file.stat().st_mtime < audio.stat().st_mtime):
        _draw(file, audio)
    return file


def _draw(file: Path, audio: Path) -> None:
    from PIL import Image

    from audiostory.picture import spectrogram

    drawn = Image.fromarray(spectrogram(sound.read(audio))).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    with replacing(file) as unfinished:
        drawn.quantize(COLORS).save(unfinished, format="PNG")
