"""What adapters, and what models say, write to the terminal of whoever looks at it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from motet.server.cli import app
from tests.security.hostile_files import write_config, write_good
from tests.security.real_server import SHAPE
from tests.server.running_server import RunningServer

ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m[bold red]x[/][link=file:///]\r\nforged \u202e"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": SHAPE.hidden_size,
        "intermediate_size": SHAPE.intermediate_size,
        "num_hidden_layers": SHAPE.num_layers,
        "num_attention_heads": SHAPE.num_heads,
        "num_key_value_heads": SHAPE.num_kv_heads,
        "head_dim": SHAPE.head_dim,
        "vocab_size": SHAPE.vocab_size,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    return tmp_path / "model"


@pytest.mark.parametrize(
    "fields",
    [
        {"base_model_name_or_path": ESCAPES},
        {"peft_type": ESCAPES},
        {ESCAPES: 1},
        {"bias": ESCAPES},
        {"target_modules": [ESCAPES]},
        {"rank_pattern": {ESCAPES: 4}},
        {"init_lora_weights": ESCAPES},
    ],
    ids=str,
)
def test_a_configuration_steers_no_terminal(
    model: Path, tmp_path: Path, fields: dict[str, object]
) -> None:
    shown = checked(write_config(tmp_path / "adapter", **fields), model)
    assert all(char.isprintable() or char == "\n" for char in shown), ascii(shown)
    assert "\nforged" not in shown


def test_the_name_of_a_directory_steers_none(model: Path, tmp_path: Path) -> None:
    name = ESCAPES.replace("/", "")
    for directory in (write_good(tmp_path / name), tmp_path / f"{name}-empty"):
        directory.mkdir(exist_ok=True)
        shown = checked(directory, model)
        assert all(char.isprintable() or char == "\n" for char in shown), ascii(shown)


def checked(directory: Path, model: Path) -> str:
    command = ["check", str(directory), "--model", str(model)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code in (0, 1), result.output
    return result.output


SAID = "a\x1b]0;title\x07\x1b[2J\x9b31m\r\x08b\tc"


def complete(server: RunningServer, stdout: int) -> None:
    """Have the fake engine repeat `SAID`."""
    command = [sys.executable, "-m", "motet.server.cli", "complete", SAID, "--url", server.url]
    num_tokens = len(SAID.encode())  # the tiny tokenizer's are bytes
    subprocess.run([*command, "--max-tokens", str(num_tokens)], stdout=stdout, check=True)


def test_an_answer_steers_no_terminal(server: RunningServer) -> None:
    ours, theirs = pty.openpty()
    complete(server, theirs)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode().replace("\r\n", "\n")  # the terminal's own
    os.close(ours)
    assert shown == ascii(SAID)[1:-1].replace("\\t", "\t") + "\n"


def test_a_pipe_gets_an_answer_as_it_is(server: RunningServer) -> None:
    reading, writing = os.pipe()
    complete(server, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == SAID.encode() + b"\n"
