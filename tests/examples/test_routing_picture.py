"""The picture of routing: from a server's answer to a file that any viewer can show."""

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPT = Path(__file__).parents[2] / "examples" / "routers" / "picture.py"
SVG = "{http://www.w3.org/2000/svg}"
ROUTING = [
    {"token": "1.", "experts": {"iso-dates": 0.75, "vcard": 0.25}},
    {"token": " <b>\n", "experts": {"vcard": 0.6, "iso-dates": 0.3}},
    {"token": "\\xe2\x00", "experts": {}},
]


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("routing_picture", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


script = _module()


@pytest.fixture
def url() -> Iterator[str]:
    """A server with one answer, and an error for the model "plain"."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert body["return_routing"] is True
            answer: dict[str, Any] = {"choices": [{"index": 0, "routing": ROUTING}]}
            if body["model"] == "plain":
                answer = {"error": {"message": "it is no routed set"}}
            content = json.dumps(answer).encode()
            self.send_response(400 if "error" in answer else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def draw(url: str, model: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "ask", "--model", model, "--out", str(out)]
    return subprocess.run(
        [*command, "--url", url], capture_output=True, text=True, timeout=60, check=False
    )


def test_an_answer_becomes_a_picture(url: str, tmp_path: Path) -> None:
    done = draw(url, "mix", tmp_path / "routing.svg")
    assert (done.returncode, "shows 3 tokens" in done.stdout) == (0, True), done.stderr
    root = ElementTree.parse(tmp_path / "routing.svg").getroot()
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert texts == [
        "mix: the experts that each token came from",
        "iso-dates",
        "vcard",
        "1.",
        "·<b>⏎",
        "\\xe2�",
    ]
    style = root.find(f"{SVG}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")


def test_what_the_server_refuses_is_said(url: str, tmp_path: Path) -> None:
    done = draw(url, "plain", tmp_path / "routing.svg")
    assert (done.returncode, done.stderr) == (1, "it is no routed set\n")
    assert not (tmp_path / "routing.svg").exists()


_TEXT = st.text(max_size=20)
_WEIGHTS = st.dictionaries(_TEXT, st.floats(0.01, 1), max_size=12)


@given(tokens=st.lists(st.tuples(_TEXT, _WEIGHTS), max_size=90), title=_TEXT)
def test_any_answer_is_a_whole_picture(tokens: list[tuple[str, Any]], title: str) -> None:
    """Bands are as high as the weights say, whatever tokens and experts are called."""
    drawn = script.picture([script.Token(*each) for each in tokens], title)
    root = ElementTree.fromstring(drawn)
    columns = root.findall(f"{SVG}g")
    assert len(columns) == len(tokens)
    for column, (_, weights) in zip(columns, tokens, strict=True):
        height = sum(float(each.attrib["height"]) for each in column.iter(f"{SVG}rect"))
        assert height == pytest.approx(script.BAND_HEIGHT * sum(weights.values()), abs=1)
