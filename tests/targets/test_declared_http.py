"""A server that only a file declares: the file's errors, the example, and bugs planted in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.core.errors import TargetLostError, TargetUnavailableError, UsageError
from harness.core.verdict import Verdict
from harness.engine import runner
from harness.engine.scenario import Scenario
from harness.targets.declared_http.adapter import DeclaredAdapter, start_of
from harness.targets.declared_http.client import Answer
from harness.targets.declared_http.declaration import filled, pointed, read_declaration
from harness.targets.declared_http.target import DeclaredHttpTarget
from scenarios.any_server import test_any_server as scenarios
from tests.support.paths import PROJECT

EXAMPLE = PROJECT / "examples" / "any_server"
FILE = "echo_server.toml"
BUGS = {
    "resume-repeats": ("C4", scenarios.STREAMS),
    "acknowledged-unwritten": ("S2", scenarios.KILLED),
}


def judged(folder: Path, scenario: Scenario, to: Path) -> Verdict:
    target = DeclaredHttpTarget(str(folder / FILE))
    target.prepare()
    return runner.run(scenario, target, 1, 0.5, to).verdict


@pytest.mark.parametrize("scenario", [scenarios.MESSAGES, scenarios.STREAMS, scenarios.HOSTILE])
def test_example_keeps_its_promises(scenario: Scenario, tmp_path: Path) -> None:
    verdict = judged(EXAMPLE, scenario, tmp_path / "run")
    assert verdict.is_valid, (verdict.anomalies, verdict.unknowns, verdict.unmet)


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_breaks_its_own_promise(bug: str, tmp_path: Path) -> None:
    copy = shutil.copytree(EXAMPLE, tmp_path / "copy")
    patch = (copy / "bugs" / f"{bug}.patch").read_text(encoding="utf-8")
    subprocess.run(["patch", "-s", "echo_server.py"], cwd=copy, input=patch, text=True, check=True)  # noqa: S607  found on the path
    promise, scenario = BUGS[bug]
    verdict = judged(copy, scenario, tmp_path / "run")
    assert promise in {broken.id for anomaly in verdict.anomalies for broken in anomaly.promises}


def test_check_lists_what_can_be_asked() -> None:
    """With the promises that are left out by design, and why."""
    printed = CliRunner().invoke(cli, ["check", str(EXAMPLE / FILE), "--json"])
    document = json.loads(printed.stdout)
    assert [row["needs"] for row in document["scenarios"]] == [""] * len(document["scenarios"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[send]", "[sned]", "expected a table [send]; there is none"),
        ('path = "/sessions"\nsession', 'paht = "/"\nsession', "[create] path: expected a text"),
        ("restart_keeps = true", 'restart_keeps = "yes"', "[server] restart_keeps: expected true"),
        ("replays = true", "replay = true", "unknown key 'replay'; did you mean 'replays'?"),
        ('order = "plus-one"', 'order = "up"', "[stream] order: expected one of increasing"),
        ('"{text}"', '"{txt}"', "[send] body: expected placeholders among {session}"),
        ('"{text}"', '"hello"', "[send] body: expected {text} in it"),
        ('items = "/messages"', 'items = "messages"', "[history] items: expected a JSON pointer"),
        (r":(\d+)", r":\d+", "[server] port_line: expected a regular expression with one group"),
        ("[ready]", "[design]\nX9 = 'no'\n[ready]", "[design]:"),
        ("[ready]", "[ready", "expected a TOML file"),
    ],
)
def test_wrong_file_is_named_with_its_key(
    old: str, new: str, expected: str, tmp_path: Path
) -> None:
    text = (EXAMPLE / FILE).read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "wrong.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError) as error:
        DeclaredHttpTarget(str(file))
    assert str(file) in str(error.value)
    assert expected in str(error.value)


def test_server_that_does_not_start_is_no_finding(tmp_path: Path) -> None:
    """Its log is in the error."""
    text = (EXAMPLE / FILE).read_text(encoding="utf-8")
    (tmp_path / FILE).write_text(text.replace("echo_server.py", "no_such.py"), encoding="utf-8")
    with pytest.raises(TargetUnavailableError, match=r"no_such\.py"):
        DeclaredHttpTarget(str(tmp_path / FILE)).prepare()


def test_page_of_html_is_has_its_words_shown() -> None:
    """What http.server answers to a method that it does not know."""
    page = b"<!DOCTYPE html><head><title>E</title></head><h1>Error</h1>\n<p>501: Unsupported&quot;"
    answer = Answer(501, {"content-type": "text/html;charset=utf-8"}, page)
    assert start_of(answer) == 'Error 501: Unsupported"'


def test_placeholders_and_pointers() -> None:
    """A lone {seq} is a number, and a pointer walks lists too."""
    assert filled({"id": "{seq}", "t": ["n{seq}"]}, {"seq": "7"}) == {"id": 7, "t": ["n7"]}
    assert pointed({"a/b": [{"c": 1}]}, "/a~1b/0/c") == 1
    assert pointed({"a": 1}, "/b/c") is None
    assert read_declaration(EXAMPLE / FILE).server.keeps


ANSWERING = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"event: token\\ndata: hello\\n\\n")
        if self.path == "/stays":
            self.wfile.write(b"event: done\\ndata: {}\\n\\n")
            self.rfile.read(1)  # until the client leaves

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
ANSWERS = """
[server]
command = ["{python}", "answering.py", "{port}"]
[ready]
path = "/"
[send]
path = "/PATH"
body = "{text}"
answer = "stream"
[stream]
path = "/"
terminal = ["done"]
"""


@pytest.mark.parametrize(("path", "is_whole"), [("stays", True), ("cut", False)])
def test_terminal_event_ends_an_answer(path: str, is_whole: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A connection that stays open is not waited for; an answer without the event was cut off."""
    (tmp_path / "answering.py").write_text(ANSWERING, encoding="utf-8")
    (tmp_path / FILE).write_text(ANSWERS.replace("PATH", path), encoding="utf-8")
    adapter = DeclaredAdapter(tmp_path, read_declaration(tmp_path / FILE))
    try:
        adapter.create("s1")
        if is_whole:
            types = [event["type"] for event in adapter.send("s1", "w00001w")["events"]]
            assert types == ["token", "done"]
        else:
            with pytest.raises(TargetLostError, match="a whole answer"):
                adapter.send("s1", "w00001w")
    finally:
        adapter.close()
