"""The tokenizers that are trained on a corpus. The command is run as a user runs it where its exit code counts."""

import json
import subprocess
import sys
from pathlib import Path

import golden_weights
import pytest
from tokenizers import Tokenizer

from audiostory.story import script
from audiostory.story.types import Event, Instruction, Storyline
from audiostory.story.vocabulary import SPECIAL_TOKENS, Vocabulary

COMMAND = Path(__file__).parents[2] / "scripts" / "make_tokenizer.py"
CAPTIONS = ("a deep bell rings 3 times", "rain falls on a roof", "a dog barks twice", "footsteps come closer")


def run(*arguments):
    return subprocess.run([sys.executable, COMMAND, *map(str, arguments)], capture_output=True, text=True)


def write_manifest(path):
    rows = [
        {
            "id": f"train-{index}",
            "instruction": f"First {first}, then {second}.",
            "total_seconds": 12.5,
            "summary": f"{first}, {second}",
            "events": [
                {"caption": first, "start": 0.0, "seconds": 6.0, "sound_detail": "in a church"},
                {"caption": second, "start": 6.0, "seconds": 6.5, "story_detail": "it happens once more"},
            ],
        }
        for index, (first, second) in enumerate((a, b) for a in CAPTIONS for b in CAPTIONS if a != b)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    manifest = write_manifest(folder / "manifest.jsonl")
    done = run("--manifest", manifest, "--output", folder / "made", "--num_semantic", 5)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tokens per word") == 2
    return folder / "made"


def test_the_planners_tokenizer_ends_with_the_special_tokens_in_their_order(made):
    vocabulary = Vocabulary.from_folder(made / "tokenizer", num_semantic=5, num_residual=8)
    added = vocabulary.tokenizer.get_added_tokens_decoder()
    names = [added[index].content for index in sorted(added)]
    assert sorted(added) == list(range(len(vocabulary) - len(added), len(vocabulary)))
    assert names[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert names[3:] == [name for name in SPECIAL_TOKENS if name in names]
    assert len(names) == 3 + 11 + 5 + 8  # base, markers, numbered


def test_text_is_split_as_qwen_splits_it(made):
    recorded = golden_weights.QWEN_TOKENIZER
    ours, theirs = (json.loads(path.read_text()) for path in (made / "tokenizer" / "tokenizer.json", recorded))
    assert ours["normalizer"] == theirs["normalizer"]
    assert ours["pre_tokenizer"]["pretokenizers"][0] == theirs["pre_tokenizer"]["pretokenizers"][0]


def test_frequent_words_are_one_token_and_digits_stand_alone(made):
    vocabulary = Vocabulary.from_folder(made / "tokenizer", num_semantic=5, num_residual=8)
    words = {word for caption in CAPTIONS for word in caption.split()} - {"3"}
    assert all(len(vocabulary.encode(" " + word)) == 1 for word in words)
    assert [vocabulary.decode([token]) for token in vocabulary.encode(" 12.5")] == [" ", "1", "2", ".", "5"]


def test_a_word_of_the_text_tokenizer_is_one_token_wherever_it_stands(made):
    tokenizer = Tokenizer.from_file(str(made / "text_tokenizer" / "tokenizer.json"))
    assert (tokenizer.token_to_id("<pad>"), tokenizer.token_to_id("</s>")) == (0, 1)
    assert tokenizer.encode("rain").ids == tokenizer.encode("a rain").ids[1:]
    assert len(tokenizer.encode("rain").ids) == 1


def test_any_text_comes_back(made):
    vocabulary = Vocabulary.from_folder(made / "tokenizer", num_semantic=5, num_residual=8)
    storyline = Storyline(summary="Zwölf 中文 \U0001f514", events=(Event(caption="a bell", seconds=2.0),))
    written = script.write(Instruction(text="naïve", total_seconds=2.0), storyline, vocabulary)
    assert "Zwölf 中文 \U0001f514" in vocabulary.decode(written.ids)


def test_questions_and_answers_are_learnt_too_and_recordings_are_no_words(tmp_path):
    row = {"instruction": "Describe everything", "heard": "story.wav", "answer": "wholly quiet"}
    lines = [json.dumps({"id": f"question-{index}", **row}) for index in range(3)]
    stories = write_manifest(tmp_path / "manifest.jsonl")
    stories.write_text("\n".join([stories.read_text(), *lines]))
    done = run("--manifest", stories, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    vocabulary = Vocabulary.from_folder(tmp_path / "tokenizer", num_semantic=16, num_residual=8)
    for word in ("Describe", " everything", "wholly", " quiet"):
        assert len(vocabulary.encode(word)) == 1
    text = json.loads((tmp_path / "text_tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert not any("wholly" in token for token in text)


def test_the_same_corpus_gives_the_same_files(made, tmp_path):
    run("--manifest", write_manifest(tmp_path / "manifest.jsonl"), "--output", tmp_path, "--num_semantic", 5)
    for name in ("tokenizer", "text_tokenizer"):
        assert (tmp_path / name / "tokenizer.json").read_bytes() == (made / name / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab_size", "100"], "at least 256"),
        (["--num_semantic", "101"], "expected 1 to 100"),
        (["--num_residual", "0"], "expected 1 to 501"),
        (["--manifest", "nowhere.jsonl"], "no manifest at nowhere.jsonl"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(tmp_path, arguments, message):
    done = run("--manifest", write_manifest(tmp_path / "manifest.jsonl"), "--output", tmp_path / "made", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "made").exists()
