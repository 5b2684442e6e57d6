import importlib.util
import subprocess
import sys

import commands
import pytest
import small_corpora

from audiostory.dataset.shards import ShardSet

SCRIPTS = commands.ROOT / "scripts"


@pytest.fixture
def corpus(tmp_path):
    small_corpora.write(tmp_path, [1, 2, 1, 1, 2])
    small_corpora.export(tmp_path / "exported")
    return tmp_path


def options(corpus, output: str) -> list[str]:
    networks = [f"--{name}={corpus / 'exported'}" for name in ("codec", "text_encoder")]
    where = [str(corpus / "manifest.jsonl"), "--output", str(corpus / output)]
    return [*where, *networks, "--format", "shards", "--rows_per_shard", "2"]


def test_without_ray_it_says_what_to_install(corpus, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setitem(sys.modules, "ray", None)
    assert commands.load("scripts/prepare_corpus.py").main(options(corpus, "shards")) == 2
    assert 'pip install "audiostory[scale]"' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_makes_the_shards_that_one_process_makes(corpus):
    def run(script: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPTS / script), *more]
        return subprocess.run(command, cwd=commands.ROOT, capture_output=True, text=True, check=False)

    made = run("prepare_corpus.py", *options(corpus, "cluster"), "--workers", "2")
    assert made.returncode == 0, made.stderr
    assert run("encode_latents.py", *options(corpus, "alone")).returncode == 0
    files = sorted(path.name for path in (corpus / "alone").iterdir())
    assert files == sorted(path.name for path in (corpus / "cluster").iterdir())
    assert all((corpus / "alone" / name).read_bytes() == (corpus / "cluster" / name).read_bytes() for name in files)
    assert len(ShardSet(corpus / "cluster")) == 5

    (corpus / "1-0.wav").write_bytes(b"no sound")
    failed = run("prepare_corpus.py", *options(corpus, "damaged"))
    assert failed.returncode == 2
    assert "rows could not be encoded" in failed.stderr.splitlines()[-1]
