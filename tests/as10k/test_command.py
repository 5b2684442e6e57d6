"""scripts/prepare_as10k.py: what it says, what it refuses, and a whole run against a server on this machine."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import commands
import pytest
from as10k.small_videos import BLUE, GREEN, RED, answer, halves

from audiostory.dataset import manifest

SMALL = [
    "natural.min_seconds=3",
    "cartoon.min_seconds=1.5",
    "cartoon.max_seconds=8",
    "cartoon.min_shot_seconds=0.3",
    "clip.sample_rate=16000",
    "clip.side=64",
    "clip.frame_rate=5",
    "row.fade_seconds=0.5",
    "row.opening_seconds=0.5",
]


@pytest.fixture
def command():
    return commands.load("scripts/prepare_as10k.py")


@pytest.fixture
def folders(video, tmp_path) -> list[str]:
    (tmp_path / "natural").mkdir()
    (tmp_path / "cartoon").mkdir()
    video(tmp_path / "natural" / "street.mp4", [(RED, 300.0, 2.0), (GREEN, 600.0, 2.0)])
    video(tmp_path / "cartoon" / "cat.mkv", [(RED, 400.0, 2.0), (BLUE, 1200.0, 2.0)])
    (tmp_path / "natural" / "bro\x1b[31mken.mp4").write_bytes(b"no video")
    where = ["--natural", str(tmp_path / "natural"), "--cartoon", str(tmp_path / "cartoon")]
    return [*where, "--output", str(tmp_path / "out"), "--set", *SMALL]


class Server:
    """A server with chat completions; `misdeeds` are what it does first: a status, or a text in place of an answer."""

    def __init__(self):
        self.requests, self.misdeeds = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body))
                parts = body["messages"][0]["content"]
                prompt = next(part["text"] for part in parts if len(part.get("text", "")) > 20)
                deed = outer.misdeeds.pop(0) if outer.misdeeds else answer(prompt, halves)
                status = deed if isinstance(deed, int) else 200
                reply = {"choices": [{"message": {"content": deed}}]} if status == 200 else {"error": "busy"}
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@pytest.fixture
def server(monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-told")
    pytest.importorskip("httpx", reason="httpx is missing: pip install 'audiostory[judge]'")
    running = Server()
    threading.Thread(target=running.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_a_whole_run_writes_manifests_a_table_and_a_summary(command, folders, server, tmp_path, capsys):
    server.misdeeds = [429, "I hear a dog."]
    asked = ["--annotator", "openai:some-model", "--base_url", server.url]
    assert command.main([*folders, *asked]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    out = tmp_path / "out"
    read = [row for file in out.glob("*/manifest.jsonl") for row in manifest.read(file, damaged_share=0.0).rows]
    assert len(read) == 2 + 2 * 3
    summary = json.loads((out / "summary.json").read_text())
    assert summary["similarity"] == "colours"
    assert {step["step"]: step["kept"] for step in summary["steps"]}["rows"] == 8
    assert summary["dropped"] == [
        {
            "step": "videos",
            "key": "natural/bro\x1b[31mken.mp4",
            "reason": "damaged",
            "detail": summary["dropped"][0]["detail"],
        }
    ]
    assert sum(sum(variants.values()) for variants in summary["rows"].values()) == 8
    assert f"{'rows':<12}{8:>8}{8:>8}" in said
    written = "".join(file.read_text() for file in out.rglob("*.json*"))
    assert "sk-not-to-be-told" not in written + said
    # 3 clips are asked about thrice; one answer was none, and one request came too early.
    assert len(server.requests) == 9 + 2
    assert command.main([*folders, *asked]) == 0
    assert len(server.requests) == 9 + 2


def test_the_annotator_is_shown_pictures_and_given_the_sound(command, folders, server):
    assert command.main([*folders, "--annotator", "openai:m", "--base_url", server.url, "--until", "events"]) == 0
    for path, headers, body in server.requests:
        kinds = [part["type"] for part in body["messages"][0]["content"]]
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == "Bearer sk-not-to-be-told"
        assert kinds.count("image_url") in (2, 4)
        assert kinds[-2:] == ["input_audio", "text"]


def test_gemini_is_shown_pictures_at_its_own_address_with_its_own_key(command, folders, server, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "gemini-key")
    monkeypatch.setattr(command, "GEMINI_AS_OPENAI", server.url)
    asked = ["--annotator", "gemini:some-model", "--until", "events", "--base_url", "http://127.0.0.1:9/v1"]
    assert command.main([*folders, *asked]) == 0
    assert {headers["Authorization"] for _, headers, _ in server.requests} == {"Bearer gemini-key"}


def test_a_wrong_key_ends_the_run_in_one_line_without_the_key(command, folders, server, capsys):
    server.misdeeds = [401]
    assert command.main([*folders, "--annotator", "openai:m", "--base_url", server.url, "--until", "events"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "openai:m cannot be asked" in said
    assert "sk-not-to-be-told" not in said


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("status", [400, 503])
def test_a_server_that_answers_nobody_ends_the_run_in_one_line_and_drops_no_clip(
    command, folders, server, monkeypatch, capsys, workers, status
):
    """With a row of two: the server is given up by its sender before the third of three clips is asked about."""
    monkeypatch.setattr("audiostory.benchmark.judge.asking.FAILURES_IN_A_ROW", 2)
    monkeypatch.setattr("audiostory.as10k.work.GIVE_UP", 3)
    patient = command.Asked.open

    def hasty(self):
        sender = patient(self)
        sender.patience = replace(sender.patience, tries=1)
        return sender

    monkeypatch.setattr(command.Asked, "open", hasty)
    server.misdeeds = [status] * 100
    asked = ["--annotator", "openai:m", "--base_url", server.url, "--workers", str(workers), "--until", "events"]
    assert command.main([*folders, *asked]) == 2
    said = capsys.readouterr().err
    assert "no answer for 3 in a row" in said
    assert f"the server answered {status}" in said
    assert "Traceback" not in said
    server.misdeeds = []
    assert command.main([*folders, *asked]) == 0
    assert f"{'events':<12}{3:>8}{3:>8}" in capsys.readouterr().out


def test_a_server_is_asked_by_the_command_itself_and_a_local_model_by_the_cluster(command, server, monkeypatch):
    monkeypatch.setattr(command.Asked, "open", lambda self: None)
    told = ["--output", "out", "--ray", "--writer", "local:folder", "--annotator", "openai:m", "--base_url", server.url]
    annotator, writer = command._models(command.parser().parse_args(told))
    assert annotator.workers is not None
    assert writer.workers is None


def test_an_annotator_may_be_given_the_sound_alone(command, folders, server):
    asked = ["--annotator", "openai:m", "--base_url", server.url, "--until", "events", "--hear_only"]
    server.misdeeds = []
    assert command.main([*folders, *asked]) == 0
    content = server.requests[0][2]["messages"][0]["content"]
    assert sorted(part["type"] for part in content) == ["input_audio", "text"]
    assert "You hear a clip" in next(part["text"] for part in content if part["type"] == "text")


def test_asking_for_help_loads_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = ['prepare_as10k.py', '--help']\n"
        "try: runpy.run_path('scripts/prepare_as10k.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, {'numpy', 'av', 'cv2', 'torch'} & {*sys.modules})"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=commands.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()"


def test_the_steps_it_offers_are_those_there_are(command):
    from audiostory.as10k import build

    assert command.STEPS == build.STEPS


def test_when_nothing_is_left_the_table_is_still_told(command, folders, server, capsys):
    server.misdeeds = ["no"] * 6
    assert command.main([*folders, "--annotator", "openai:m", "--base_url", server.url]) == 2
    said = capsys.readouterr()
    assert "events not usable" in said.out
    assert "no rows are left" in said.err


def test_without_models_it_tells_how_many_clips_there_are(command, folders, capsys):
    assert command.main([*folders, "--until", "clips"]) == 0
    assert f"{'clips':<12}{3:>8}{3:>8}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--annotator", "dog"], "a model is one of gemini:NAME, openai:NAME, local:NAME; got 'dog'"),
        (["--annotator", "gemini:x"], "no key: set GEMINI_API_KEY"),
        (["--annotator", "openai:x", "--base_url", "file:///etc"], "should be an address"),
        ([], "there is no annotator"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--requests_per_minute", "0"], "--requests_per_minute must be more than 0; got 0"),
        (["--requests_per_minute", "nan"], "--requests_per_minute must be more than 0"),
        (["--until", "shots", "--dinov2", "nowhere"], "holds no DINOv2"),
        (["--until", "shots", "--set", "cartoon.min_second=5"], "there is no setting 'cartoon.min_second'"),
        (["--until", "shots", "--set", "cartoon.min_seconds=five"], "cartoon.min_seconds is a float; got 'five'"),
        (["--until", "shots", "--set", "cartoon.min_seconds=99"], "clips last from a positive min_seconds"),
        (["--until", "shots", "--set", "cartoon"], "--set takes GROUP.NAME=VALUE"),
        (["--until", "shots", "--natural", "nowhere"], "there is no folder of videos at nowhere"),
    ],
)
def test_a_mistake_is_told_in_one_line(command, folders, server, capsys, more, message):
    assert command.main([*folders, *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_without_the_extra_it_says_what_to_install(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert command.main(["--natural", str(tmp_path), "--output", str(tmp_path / "out"), "--until", "clips"]) == 2
    assert 'pip install "audiostory[as10k]"' in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(command, folders, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main([*folders, "--until", "clips", "--ray"]) == 2
    assert 'pip install "audiostory[scale]"' in capsys.readouterr().err


def test_a_worker_of_a_cluster_makes_what_one_makes_here(command, folders, tmp_path):
    import numpy as np

    from audiostory.as10k.build import Probe
    from audiostory.as10k.settings import VideoSettings
    from audiostory.as10k.work import Job, attempt

    jobs = [
        Job(key=path.name, made_of="1", given={"path": str(path)})
        for path in (tmp_path / "natural" / "street.mp4", Path(tmp_path / "cartoon"))
    ]
    make = Probe(limits=VideoSettings())
    batch = {"job": np.array([pickle.dumps(job) for job in jobs], dtype=object)}
    made = command.Worker(pickle.loads(pickle.dumps(make)))(batch)
    assert made["fault"] == ["", ""]
    assert [pickle.loads(outcome) for outcome in made["outcome"]] == [attempt(make, job) for job in jobs]


def test_a_model_travels_to_a_worker_without_its_key(command, server):
    asked = command.Asked("openai", "m", base_url=server.url, requests_per_minute=None, sees=True)
    asked.open()
    # Pickled by its fields: the class of a command that is loaded as in these tests cannot be found by its name.
    state = pickle.dumps(asked.__getstate__())
    assert b"sk-not" not in state
    assert asked.__getstate__()["_sender"] is None
