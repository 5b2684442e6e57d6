"""Rename tables: how a tensor is called by others and by us, both ways, and what came of applying a table to a file.

A rule is a pair of templates. `{name}` stands for any text, the same on both sides:

    table = KeyMap([("seedx.projector.{rest}", "bridge/semantic_projector.{rest}")])
    table.to_ours("seedx.projector.0.bias")                      # "bridge/semantic_projector.0.bias"
    table.to_theirs("bridge/semantic_projector.0.bias")          # "seedx.projector.0.bias"

The first rule that fits wins, so special cases stand before general ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a file's tensors. `loaded` leads from our names to theirs; the others are their names, or ours
    where the file has none (`missing`)."""

    loaded: Mapping[str, str]
    aliased: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()

    def check(self, source: object) -> None:
        """ValueError with the lists when something is missing, unexpected or misshaped."""
        lists = [
            f"{len(names)} {kind}: {_some(names)}"
            for kind in ("missing", "unexpected", "misshaped")
            if (names := getattr(self, kind))
        ]
        if lists:
            raise ValueError(
                f"{source} does not hold the tensors that its configuration describes; {'; '.join(lists)}. "
                "Check that configuration and weights belong together, or copy them again"
            )

    def __str__(self) -> str:
        kinds = ("loaded", "aliased", "ignored", "missing", "unexpected", "misshaped")
        return ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)


class KeyMap:
    """A table of rules, with the two things that may be in a file besides: aliases, and what is ignored.

    `aliases` maps a name to the one whose tensor it repeats, both theirs; a file may hold either or both. `ignored` are
    templates of names that carry nothing we use. `spellings` are replaced in a name before anything else.
    """

    def __init__(
        self,
        rules: Sequence[tuple[str, str]],
        *,
        aliases: Mapping[str, str] | None = None,
        ignored: Sequence[str] = (),
        spellings: Mapping[str, str] | None = None,
    ):
        self.rules, self.aliases = tuple(rules), dict(aliases or {})
        self.ignored_templates, self.spellings = tuple(ignored), dict(spellings or {})
        self._to_ours = [_renamer(theirs, ours) for theirs, ours in rules]
        self._to_theirs = [_renamer(ours, theirs) for theirs, ours in rules]
        self._ignored = [_pattern(template) for template in ignored]

    def to_ours(self, theirs: str) -> str | None:
        """None for what no rule fits."""
        for old, new in self.spellings.items():
            theirs = theirs.replace(old, new)
        return _first(self._to_ours, theirs)

    def to_theirs(self, ours: str) -> str | None:
        return _first(self._to_theirs, ours)

    def ignores(self, theirs: str) -> bool:
        return any(pattern.fullmatch(theirs) for pattern in self._ignored)

    def under(self, prefix: str) -> KeyMap:
        """The same table for a source that puts `prefix` before all of its names."""
        return KeyMap(
            [(prefix + theirs, ours) for theirs, ours in self.rules],
            aliases={prefix + alias: prefix + original for alias, original in self.aliases.items()},
            ignored=[prefix + template for template in self.ignored_templates],
            spellings=self.spellings,
        )

    def __add__(self, other: KeyMap) -> KeyMap:
        return KeyMap(
            [*self.rules, *other.rules],
            aliases={**self.aliases, **other.aliases},
            ignored=[*self.ignored_templates, *other.ignored_templates],
            spellings={**self.spellings, **other.spellings},
        )

    def match(self, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Report:
        """Compares a file (their names) with what we need (our names); nothing is read."""
        loaded: dict[str, str] = {}
        aliased, ignored, unexpected, misshaped = [], [], [], []
        for theirs, shape in found.items():
            # Untied networks have a tensor of their own under an alias's name.
            original = theirs if self.to_ours(theirs) in expected else self.aliases.get(theirs, theirs)
            if original != theirs and original in found:
                aliased.append(theirs)
                if tuple(found[original]) != tuple(shape):
                    misshaped.append(f"{theirs} {list(shape)}, but {original} {list(found[original])}")
                continue
            if self.ignores(theirs):
                ignored.append(theirs)
                continue
            ours = self.to_ours(original)
            if ours is None or ours not in expected or ours in loaded:
                unexpected.append(theirs)
                continue
            loaded[ours] = theirs
            if tuple(shape) != tuple(expected[ours]):
                misshaped.append(f"{theirs} {list(shape)}, expected {list(expected[ours])}")
        missing = [self.to_theirs(ours) or ours for ours in expected if ours not in loaded]
        return Report(
            loaded=loaded,
            aliased=tuple(aliased),
            ignored=tuple(ignored),
            missing=tuple(missing),
            unexpected=tuple(unexpected),
            misshaped=tuple(misshaped),
        )


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(template)))


def _renamer(source: str, target: str) -> Callable[[str], str | None]:
    pattern = _pattern(source)

    def rename(name: str) -> str | None:
        found = pattern.fullmatch(name)
        return target.format_map(found.groupdict()) if found else None

    return rename


def _first(renamers: Sequence[Callable[[str], str | None]], name: str) -> str | None:
    return next((renamed for rename in renamers if (renamed := rename(name)) is not None), None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
