"""Adapters whose files lie: about their size, their shapes, their numbers, and what they are."""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from motet.core.shape import Module
from tests.adapters.make import AdapterSpec, key, lora_config, write_files
from tests.security.hostile_files import (
    CONFIG,
    WEIGHTS,
    entry,
    safetensors_of,
    write_config,
    write_good,
    write_weights,
)
from tests.security.real_server import ALICE, RealServer

pytestmark = pytest.mark.slow

A, B = key(0, Module.Q, "A"), key(0, Module.Q, "B")
HUGE = 2**62


@pytest.fixture
def refused(real: RealServer) -> Callable[[Path], str]:
    """Try to load a directory: the code of its refusal, after which all is as it was."""

    def refuse(directory: Path) -> str:
        answer = real.load("alice-hostile", directory, load_inplace=True)
        assert answer.status_code in (400, 403, 404), answer.text
        assert len(answer.content) < 2000
        assert real.complete(ALICE, model="alice-hostile").status_code == 404
        assert real.complete(ALICE).status_code == 200
        return str(answer.json()["error"]["code"])

    return refuse


WEIGHTS_THAT_LIE: dict[str, bytes] = {
    "empty": b"",
    "a length and no more": struct.pack("<Q", 8),
    "header of 1 GiB": safetensors_of(b"{}", length=1 << 30),
    "header of 16 EiB": safetensors_of(b"{}", length=2**64 - 1),
    "negative length": struct.pack("<q", -1) + b"{}",
    "deep header": safetensors_of(b"[" * 100_000 + b"]" * 100_000),
    "deep entry": safetensors_of(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "header is a list": safetensors_of([]),
    "header is no JSON": safetensors_of(b"\x80\x04\x95"),
    "shape overflows": safetensors_of({A: entry([HUGE, HUGE], 0, 0)}),
    "shape wraps to its bytes": safetensors_of({A: entry([2**63, 2], 0, 8)}, bytes(8)),
    "shape is huge": safetensors_of({A: entry([HUGE], 0, 8)}, bytes(8)),
    "shape is negative": safetensors_of({A: entry([-2, -64], 0, 512)}, bytes(512)),
    "shape is a float": safetensors_of(
        {A: {**entry([], 0, 512), "shape": [2.0, 64.0]}}, bytes(512)
    ),
    "10,000 dimensions": safetensors_of({A: entry([1] * 10_000, 0, 4)}, bytes(4)),
    "offsets beyond the file": safetensors_of({A: entry([2, 64], 0, 1 << 40)}, bytes(512)),
    "offsets backwards": safetensors_of({A: entry([2, 64], 512, 0)}, bytes(512)),
    "offsets negative": safetensors_of({A: entry([2, 64], -512, 0)}, bytes(512)),
    "offsets of 100 digits": safetensors_of({A: entry([2, 64], 0, 10**100)}, bytes(512)),
    "two tensors on the same bytes": safetensors_of(
        {A: entry([2, 64], 0, 512), B: entry([64, 2], 0, 512)}, bytes(512)
    ),
    "a hole": safetensors_of({A: entry([2, 64], 8, 520)}, bytes(520)),
    "more at the end": safetensors_of({A: entry([2, 64], 0, 512)}, bytes(5120)),
    "one name twice": safetensors_of(
        f'{{"{A}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},'
        f'"{A}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}'.encode()
    ),
    "names of 1 MB": safetensors_of({"x" * 1_000_000: entry([0], 0, 0)}),
    "names that are paths": safetensors_of({"../../../etc/passwd": entry([0], 0, 0)}),
    "names of control characters": safetensors_of({"\x1b[2J\r\n": entry([0], 0, 0)}),
    "100,000 tensors": safetensors_of({f"t{i}": entry([0], 0, 0) for i in range(100_000)}),
    "a dtype of its own": safetensors_of({A: entry([2, 64], 0, 512, "object")}, bytes(512)),
    "8-bit": safetensors_of({A: entry([2, 64], 0, 128, "F8_E4M3")}, bytes(128)),
    "metadata is no object": safetensors_of({"__metadata__": 7, A: entry([2, 64], 0, 512)}),
    "a GGUF file": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
    "an ELF file": b"\x7fELF" + bytes(100),
}


@pytest.mark.parametrize("what", WEIGHTS_THAT_LIE)
def test_weights_that_lie(
    real: RealServer, refused: Callable[[Path], str], tmp_path_factory: Any, what: str
) -> None:
    directory = real.root / tmp_path_factory.mktemp("x").name / "lies"
    code = refused(write_weights(directory, WEIGHTS_THAT_LIE[what]))
    assert code in ("corrupt_adapter", "unsupported_adapter", "invalid_adapter", "wrong_base_model")


def test_a_sparse_file_of_a_terabyte(real: RealServer, refused: Callable[[Path], str]) -> None:
    directory = write_good(real.root / "sparse")
    os.truncate(directory / WEIGHTS, 1 << 40)
    assert refused(directory) == "invalid_adapter"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("factor", [A, B])
def test_numbers_that_would_poison_a_batch(
    real: RealServer, refused: Callable[[Path], str], factor: str, value: float
) -> None:
    directory = write_good(real.root / f"poison-{value}-{factor == A}")
    tensors = load_file(directory / WEIGHTS)
    tensors[factor][1, 1] = value
    save_file(tensors, directory / WEIGHTS)
    assert refused(directory) == "invalid_adapter"


def test_finite_weights_whose_products_are_not_end_their_own_request_alone(
    real: RealServer,
) -> None:
    directory = write_good(real.root / "overflow", scale=1e30)
    expected = real.complete(ALICE).json()["choices"][0]["text"]
    if real.load("alice-overflow", directory).status_code == 200:
        answer = real.complete(ALICE, model="alice-overflow", max_tokens=8)
        assert answer.status_code in (200, 500)
        assert "Traceback" not in answer.text
    assert real.complete(ALICE).json()["choices"][0]["text"] == expected


def test_a_rank_beyond_the_pool(real: RealServer, refused: Callable[[Path], str]) -> None:
    rank = 100_000
    spec = AdapterSpec(rank=rank, modules=(Module.Q,), layers=(0,))
    tensors = {A: torch.zeros(rank, 64), B: torch.zeros(64, rank)}
    directory = write_files(real.root / f"rank-{rank}", lora_config(spec), tensors)
    assert refused(directory) == "adapter_too_large"


CONFIGS: dict[str, dict[str, object]] = {
    "code of its own": {"auto_map": {"AutoModel": "evil--modeling.Evil"}},
    "trust_remote_code": {"trust_remote_code": True},
    "a class of its own": {"peft_type": "EVIL"},
    "peft_type is a list": {"peft_type": ["LORA"]},
    "unknown": {"__class__": "os.system"},
    "a custom module": {"auto_mapping": None, "custom_modules": {"x": "os.system"}},
    "rank 0": {"r": 0},
    "rank -1": {"r": -1},
    "rank 10**30": {"r": 10**30},
    "rank true": {"r": True},
    "rank by a string": {"r": "2"},
    "alpha nan": {"lora_alpha": float("nan")},
    "alpha 1e999": {"lora_alpha": float("inf")},
    "alpha -1": {"lora_alpha": -1},
    "alpha 10**400": {"lora_alpha": 10**400},
    "many patterns": {"rank_pattern": {f"[ab]{i}": 4 for i in range(20_000)}},
    "layers": {"layers_to_transform": list(range(10, 100_000))},
    "layer -1": {"layers_to_transform": [-1]},
    "saved modules": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("what", CONFIGS)
def test_configurations_that_want_more(
    real: RealServer, refused: Callable[[Path], str], what: str
) -> None:
    directory = write_good(real.root / f"config-{what}".replace("*", "x").replace(" ", "-"))
    write_config(directory, **CONFIGS[what])
    assert refused(directory) in ("invalid_adapter", "unsupported_adapter", "wrong_base_model")


PATTERNS = [
    *(r"(\w+\.?)+x", r"((\w+\.?)+)+$x", "(.*)*y", "(a|a)*b", r"(?<=a)b", r"(a)\1"),
    *("(a{1000}){1000}", "a|" * 100_000, "(" * 1000 + ")" * 1000, "[", "(?P<x>a)(?P<x>b)", "(?i)a"),
]


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern", "target_modules"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=range(len(PATTERNS)))
def test_no_pattern_holds_the_engine_up(real: RealServer, pattern: str, field: str) -> None:
    name = f"alice-{field}-{PATTERNS.index(pattern)}"
    value: object = pattern if field == "target_modules" else {pattern: 4}
    answer = real.load(name, write_config(real.root / name, **{field: value}))
    assert answer.status_code in (200, 400), answer.text
    assert real.complete(ALICE).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[" * 100_000,
        b'{"peft_type": "LORA", "r": 2, "r": 4}',
        b'{"peft_type": "LORA", "r": 1' + b"0" * 5000 + b"}",
        b'\xff\xfe{"peft_type": "LORA"}',
        b'{"peft_type": "LORA", "x": "' + b"x" * (2 << 20) + b'"}',
        b"--- !!python/object/apply:os.system ['id']",
    ],
)
def test_configurations_that_are_none(
    real: RealServer, refused: Callable[[Path], str], content: bytes
) -> None:
    directory = write_good(real.root / f"none-{len(content)}")
    (directory / CONFIG).write_bytes(content)
    assert refused(directory) == "invalid_adapter"


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may have 108 bytes
        listener.bind(path.name)
        os.chdir(here)


def _environment(path: Path) -> None:
    path.symlink_to("/proc/self/environ")


@pytest.mark.parametrize("make", [_fifo, _device, _folder, _listener, _environment])
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_what_is_no_file_holds_nobody_up(
    real: RealServer, refused: Callable[[Path], str], make: Callable[[Path], None], name: str
) -> None:
    directory = write_good(real.root / f"no-file{make.__name__}-{name}")
    (directory / name).unlink()
    make(directory / name)
    assert refused(directory) in ("invalid_adapter", "path_not_allowed")


def test_no_template_and_no_tokenizer_of_an_adapter_is_read(real: RealServer) -> None:
    directory = write_good(real.root / "template")
    template = "{{ ''.__class__.__mro__ }}{% for i in range(10**9) %}x{% endfor %}"
    (directory / "chat_template.jinja").write_text(template)
    (directory / "tokenizer_config.json").write_text('{"chat_template": "INJECTED"}')
    (directory / "tokenizer.json").write_text("{}")
    (directory / "generation_config.json").write_text('{"eos_token_id": 0}')
    assert real.load("alice-template", directory).status_code == 200
    messages = [{"role": "user", "content": "x"}]
    lengths = set()
    for model in ("tiny", "alice-template"):
        body = {"model": model, "messages": messages, "max_tokens": 1}
        answer = real.http.post(
            "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {ALICE}"}
        )
        lengths.add(answer.json()["usage"]["prompt_tokens"])
    assert len(lengths) == 1


def test_what_was_refused_left_nothing_behind(real: RealServer) -> None:
    answer = real.http.get("/v1/models", headers={"Authorization": f"Bearer {ALICE}"})
    assert "hostile" not in answer.text
    assert "Traceback" not in real.log
