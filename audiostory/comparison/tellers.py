"""From the settings of a system to the system itself. No network is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiostory.comparison.config import Benchmark, Folder, Teller
from audiostory.pipeline import MINI
from audiostory.processes import Place
from audiostory.systems.asked import System
from audiostory.systems.baselines import Cascade, TextToAudio, TrueCaptions, WholeCaption
from audiostory.systems.diffusers_audio import INDEX, KINDS, DiffusersTextToAudio
from audiostory.systems.ours import Ours
from audiostory.systems.text_to_audio import OurTextToAudio
from audiostory.weights.files import read_json

ABOUT = {
    "ours": "the model, from the instruction alone",
    "true storyline": "the model given the true storyline: what is lost here is not the planner's fault",
    "whole_caption": "text to audio on the whole story's caption, no planner",
    "cascade": "a planner's captions, each made alone by text to audio, laid end to end",
    "true_captions": "the true captions, each made alone by text to audio, laid end to end",
    "folder": "another system, by what it left in a folder",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One of the systems of a report: who tells, or the folder where somebody has told, and the line about it."""

    name: str
    about: str
    system: System | None = None
    folder: Path | None = None

    @property
    def hears(self) -> Ours | None:
        """The system, if it is one that can be asked questions."""
        return self.system if isinstance(self.system, Ours) and not self.system.true_storyline else None

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.system.settings if self.system else {"kind": "folder", "folder": str(self.folder)}

    def told_in(self, told: Path) -> Path:
        """The folder of its stories, which is below `told` if it tells here."""
        return self.folder or told / self.name


def columns(benchmark: Benchmark, place: Place) -> dict[str, Column]:
    """The systems of a comparison by their names. ValueError as `system` raises it."""
    device, found = place.device(benchmark.device), {}
    for name, chosen in benchmark.systems.items():
        if isinstance(chosen, Folder):
            found[name] = Column(name=name, about=_about(chosen), folder=Path(chosen.folder))
        else:
            teller = system(chosen, device=device, seed=benchmark.seed)
            found[name] = Column(name=name, about=_about(chosen), system=teller)
    return found


def check_hearing(columns: Mapping[str, Column], what: str, otherwise: str) -> None:
    """ValueError, before anything is told, for a system that cannot hear the recordings that `what` has."""
    for name, column in columns.items():
        model = column.system.planner if isinstance(column.system, Cascade) else column.system
        if isinstance(model, Ours) and model.lacking:
            raise ValueError(
                f"{what} has recordings to listen to, which {name} cannot: {model.folder} has "
                f"no {' and no '.join(model.lacking)}; give one that learnt from recordings as "
                f"systems.{name}.model_path, or {otherwise}"
            )


def _about(chosen: Teller | Folder) -> str:
    is_oracle = isinstance(chosen, Teller) and chosen.kind == "ours" and chosen.true_storyline
    return ABOUT["true storyline" if is_oracle else chosen.kind]


def system(chosen: Teller, *, device: str | None, seed: int) -> System:
    """ValueError for a folder that is no model, and a setting that the kind of system needs or cannot use."""
    model = Path(chosen.model_path) if chosen.model_path else MINI
    if chosen.kind == "ours":
        _refuse(chosen, "text_to_audio", "codec")
        values: dict[str, Any] = {"steps": chosen.steps, "guidance": chosen.guidance, "solver": chosen.solver}
        return Ours(model, device=device, seed=seed, true_storyline=chosen.true_storyline, **values)
    _refuse(chosen, "true_storyline", "solver", *(() if chosen.kind == "cascade" else ("model_path",)))
    text_to_audio = _text_to_audio(chosen, device)
    if chosen.kind == "cascade":
        return Cascade(model, text_to_audio, device=device, seed=seed)
    return (WholeCaption if chosen.kind == "whole_caption" else TrueCaptions)(text_to_audio, seed=seed)


def _text_to_audio(chosen: Teller, device: str | None) -> TextToAudio:
    if chosen.text_to_audio is None:
        raise ValueError(
            f"a system of the kind {chosen.kind} needs text_to_audio=FOLDER: the export of stage tangoflux, or the "
            "folder of TangoFlux, AudioLDM2 or Stable Audio Open"
        )
    folder = Path(chosen.text_to_audio)
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder} for text_to_audio; stage tangoflux exports one (scripts/train_mini.sh), or "
            "give that of TangoFlux, AudioLDM2 or Stable Audio Open"
        )
    values = {name: value for name in ("steps", "guidance") if (value := getattr(chosen, name)) is not None}
    if (folder / INDEX).is_file() and read_json(folder / INDEX).get("_class_name") in KINDS:
        return DiffusersTextToAudio(folder, device=device, **values)
    return OurTextToAudio(folder, Path(chosen.codec) if chosen.codec else None, device=device, **values)


def _refuse(chosen: Teller, *names: str) -> None:
    if given := [name for name in names if getattr(chosen, name)]:
        raise ValueError(f"a system of the kind {chosen.kind} has no use for {given[0]}; leave it out")
