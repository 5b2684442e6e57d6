import commands
import pytest
import small_corpora

from audiostory.model import tiny

main = commands.load("scripts/report_padding.py").main
encode = commands.load("scripts/encode_latents.py").main


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    small_corpora.write(folder, [1, 2, 3, 1, 2, 1, 1, 1, 4, 2, 1, 1])
    exported = str(small_corpora.export(folder / "exported"))
    tiny.vocabulary().tokenizer.save(str(folder / "tokenizer.json"))
    networks = ["--codec", exported, "--text_encoder", exported, "--num_tokens", "4"]
    assert encode([str(folder / "manifest.jsonl"), "--output", str(folder / "latents"), *networks]) == 0
    shards = ["--format", "shards", "--tokenizer", str(folder), "--rows_per_shard", "4"]
    assert encode([str(folder / "manifest.jsonl"), "--output", str(folder / "shards"), *networks, *shards]) == 0
    return folder


def report(corpus, *arguments) -> int:
    sizes = ["--tokenizer", str(corpus), "--num_semantic", "4", "--num_residual", "2", "--batches", "3"]
    return main([*map(str, arguments), *sizes])


def shares(told: str) -> list[float]:
    return [float(word.rstrip("%")) for word in told.split() if word.endswith("%")]


def test_one_row_to_a_batch_pads_no_token_and_no_less_frames_than_its_row(corpus, capsys):
    assert report(corpus, corpus / "manifest.jsonl", "--latents", corpus / "latents", "--rows", 1) == 0
    tokens, frames, same_tokens, same_frames, within = shares(capsys.readouterr().out)
    assert tokens == same_tokens == 0
    assert frames == same_frames == within > 0


def test_pieces_pad_less_than_their_batch(corpus, capsys):
    found = []
    for pieces in (1, 3):
        options = ("--latents", corpus / "latents", "--rows", 12, "--pieces", pieces)
        assert report(corpus, corpus / "manifest.jsonl", *options) == 0
        found.append(shares(capsys.readouterr().out)[0])
    assert found[1] < found[0]


def test_words_alone_have_no_frames(corpus, capsys):
    assert report(corpus, corpus / "manifest.jsonl", "--rows", 4) == 0
    assert "0.0% of frames" in capsys.readouterr().out


def test_a_set_of_shards_is_reported_on_likewise(corpus, capsys):
    assert report(corpus, corpus / "shards", "--rows", 1) == 0
    told = shares(capsys.readouterr().out)
    assert told[0] == 0
    assert told[-1] > 0


def test_a_folder_of_neither_is_an_error(corpus, capsys):
    assert report(corpus, corpus / "nowhere") == 2
    assert "no manifest at" in capsys.readouterr().err
