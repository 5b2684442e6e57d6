"""The import arrows between the rooms, checked from the source, and the rooms that must do without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "audiostory"

# Who may import whom. `story` and `sound` are the language of all rooms but each other; nobody imports the commands,
# and everybody may write to the disk.
ARROWS: dict[str, set[str]] = {
    "story": set(),
    "sound": set(),
    "soundworld": {"story", "sound"},
    "timeline": {"story", "sound"},
    "story_audio": {"story", "sound", "timeline", "model.solvers"},
    "picture": {"story", "sound"},
    "model": {"story", "sound"},
    "weights": {"model", "story"},
    "dataset": {"story", "sound", "model.inputs"},
    "training": {"dataset", "model", "weights", "story", "sound", "picture"},
    "streaming": {"story", "sound"},
    "pipeline": {"story", "model", "sound", "weights", "timeline", "story_audio", "streaming"},
    "parity": {"story", "model", "sound", "weights", "timeline", "pipeline"},
    "story_files": {"pipeline", "sound", "picture"},
    "composing": set(),
    "disk": set(),
    "lines": set(),
    "model_answers": set(),
    "processes": set(),
    "quick_imports": set(),
    "as10k": {"story", "sound", "model_answers"},
    # The sound world knows the truth that stories are scored against.
    "benchmark": {"story", "sound", "soundworld", "model_answers", "picture"},
    # Who tells, and what is asked of them: the benchmark itself never meets a model.
    "systems": {"pipeline", "model", "weights", "story", "sound", "timeline", "story_audio", "story_files"},
    "comparison": {"benchmark", "systems", "pipeline", "weights", "soundworld", "story"},
}
EVERYBODYS = ("composing", "disk", "lines", "processes")
COMMANDS = {"train", "evaluate", "scripts"}
WITHOUT_TORCH = [
    *(
        "sound.py",
        "timeline.py",
        "story_audio.py",
        "streaming.py",
        "story",
        "soundworld",
        "dataset/manifest.py",
        "model/solvers.py",
        "training/stages.py",
    ),
    *(
        "composing.py",
        "disk.py",
        "lines.py",
        "processes.py",
        "quick_imports.py",
        "model_answers.py",
        "systems/asked.py",
        "as10k",
    ),
    *("benchmark/judge", "benchmark/metrics", "benchmark/ablations"),
    *(f"benchmark/{name}.py" for name in ("items", "soundworld", "report", "listening", "tasks")),
    *(f"benchmark/{name}.py" for name in ("audio_files", "understanding")),
    *(f"benchmark/{name}.py" for name in ("distribution", "entries", "page")),
    *("benchmark/recorded.py", "benchmark/intervals.py", "benchmark/paper.py", "benchmark/scoring.py"),
    *(f"benchmark/embedders/{name}.py" for name in ("cache", "embedding", "recordings")),
]

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports, inside functions too; `from a import b` counts as a.b."""
    folder = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def is_allowed(room: str, target: str) -> bool:
    """`target` is a module path inside the package, such as "model.inputs.StoryBatch"."""
    return any(f"{target}.".startswith(f"{arrow}.") for arrow in (*ARROWS[room], room, *EVERYBODYS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_its_arrows_allow(path):
    room = room_of(path)
    assert room in ARROWS, f"{room} is a new room: say in ARROWS what it may import"
    for name in imported(path):
        top, _, target = name.partition(".")
        assert top not in COMMANDS, f"{path} imports the command {name}"
        assert top != "audiostory" or is_allowed(room, target), (
            f"{path} imports {name}; {room} may import {ARROWS[room]}"
        )


def test_the_package_itself_imports_no_room_by_itself():
    """The public names are looked up on first use, in a function or for type checkers only."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node for node in at_import if "audiostory" in ast.dump(node)]


# A finder rather than None in sys.modules, which scipy takes for a torch that is there.
NO_TORCH = """
import importlib, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked")

sys.meta_path.insert(0, Block())
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rooms_without_torch_import_where_there_is_none():
    roots = [PACKAGE / name for name in WITHOUT_TORCH]
    files = [file for root in roots for file in ([root] if root.is_file() else sorted(root.glob("*.py")))]
    names = [module_name(file) for file in files]
    assert {"audiostory.sound", "audiostory.story.script"} <= set(names)
    run(f"{NO_TORCH}\nfor name in {names}: importlib.import_module(name)")


def test_the_block_on_torch_holds():
    assert "blocked" in run(f"{NO_TORCH}\ntry: import torch.nn\nexcept ImportError as error: print(error)")


def test_importing_the_package_and_the_words_is_light():
    heavy = ["torch", "transformers", "diffusers", "peft", "librosa", "soundfile", "soxr", "scipy", "matplotlib"]
    rooms = "audiostory, audiostory.sound, audiostory.story.script"
    assert run(f"import sys, {rooms}; print([n for n in {heavy} if n in sys.modules])").strip() == "[]"


def test_public_names_are_found_on_first_use():
    assert run("import audiostory; print(audiostory.Storyline.__module__)").strip() == "audiostory.story.types"
    assert "Instruction" in run("import audiostory; print(dir(audiostory))")
    message = run("import audiostory\ntry: audiostory.Sotry\nexcept AttributeError as error: print(error)")
    assert "no attribute 'Sotry'; it offers AudioStoryPipeline" in message
