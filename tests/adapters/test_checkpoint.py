"""Safe reading: formats, limits, links, changes while reading, and hostile bytes."""

import json
import os
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from motet.adapters import checkpoint as checkpoint_module
from motet.adapters import files, parsing
from motet.adapters.checkpoint import read_checkpoint
from motet.adapters.peft_lora import load_adapter
from motet.core.errors import AdapterError
from motet.core.shape import Module
from tests.adapters.make import TINY, AdapterSpec, write_lora

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SMALL = AdapterSpec(modules=(Module.Q, Module.V), rank=2, layers=(0,))


@pytest.fixture
def adapter(tmp_path):
    return write_lora(tmp_path / "root" / "adapter", spec=SMALL)


def refused(directory, root=None) -> tuple[str, str]:
    with pytest.raises(AdapterError) as caught:
        read_checkpoint(directory, root)
    return caught.value.code, caught.value.message


def test_content(adapter):
    read = read_checkpoint(adapter)
    assert read.config == json.loads((adapter / CONFIG).read_text())
    expected = load_file(adapter / WEIGHTS)
    assert read.tensors.keys() == expected.keys()
    assert all(torch.equal(read.tensors[name], expected[name]) for name in expected)


def test_missing_directory(adapter):
    assert refused(adapter / "none")[0] == "adapter_not_found"
    assert refused(adapter.parent / "none", adapter.parent)[0] == "adapter_not_found"
    assert refused(adapter / "a\0b")[0] == "adapter_not_found"


def test_not_a_directory(adapter):
    code, message = refused(adapter / WEIGHTS)
    assert code == "invalid_adapter"
    assert "not a directory" in message


def test_no_configuration(adapter):
    (adapter / CONFIG).unlink()
    code, message = refused(adapter)
    assert code == "invalid_adapter"
    assert f"no {CONFIG}" in message
    (adapter / "config.json").touch()
    assert "whole model" in refused(adapter)[1]


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "weights.ckpt"])
def test_pickles(adapter, name):
    (adapter / WEIGHTS).rename(adapter / name)
    (adapter / "aaa_training_args.bin").touch()
    code, message = refused(adapter)
    assert code == "unsupported_format"
    assert "run code" in message
    assert "save_pretrained" in message
    assert ("adapter_model" not in name) or (name in message)
    assert refused(adapter / name)[0] == "unsupported_format"


def test_a_pickle_beside_the_weights_is_not_read(adapter):
    (adapter / "training_args.bin").write_bytes(b"\x80\x04garbage")
    assert read_checkpoint(adapter).tensors


def test_weights_in_several_files(adapter):
    (adapter / WEIGHTS).rename(adapter / "adapter_model-00001-of-00002.safetensors")
    code, message = refused(adapter)
    assert code == "unsupported_format"
    assert "00001-of-00002" in message


def test_no_weights(adapter):
    (adapter / WEIGHTS).unlink()
    code, message = refused(adapter)
    assert code == "invalid_adapter"
    assert f"no {WEIGHTS}" in message


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_not_a_regular_file(adapter, name):
    (adapter / name).unlink()
    (adapter / name).mkdir()
    assert "not a regular file" in refused(adapter)[1]
    (adapter / name).rmdir()
    os.mkfifo(adapter / name)
    assert "not a regular file" in refused(adapter)[1]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("broken", [False, True])
def test_links_out_of_the_root(adapter, tmp_path, name, broken):
    outside = tmp_path / "outside"
    (adapter / name).rename(outside)
    (adapter / name).symlink_to(outside)
    if broken:
        outside.unlink()
    for root in (None, adapter, adapter.parent):
        code, message = refused(adapter, root)
        assert code == "path_not_allowed"
        assert name in message
        assert "outside" not in message.replace("out of", "")


def test_links_within_the_root(adapter):
    expected = read_checkpoint(adapter).config
    blobs = adapter.parent / "blobs"
    blobs.mkdir()
    for name in (CONFIG, WEIGHTS):
        (adapter / name).rename(blobs / name)
        (adapter / name).symlink_to(f"../blobs/{name}")
    assert read_checkpoint(adapter, adapter.parent).config == expected
    assert refused(adapter)[0] == "path_not_allowed"


def test_directory_outside_the_root(adapter, tmp_path):
    (tmp_path / "other").mkdir()
    assert refused(adapter, tmp_path / "other")[0] == "path_not_allowed"


def test_size_limits(adapter, monkeypatch):
    with open(adapter / CONFIG, "ab") as file:
        file.write(b" " * (1 << 20))
    assert "at most 1048576 are read" in refused(adapter)[1]
    monkeypatch.setattr(checkpoint_module, "MAX_CONFIG_BYTES", 1 << 22)
    read_checkpoint(adapter)
    monkeypatch.setattr(checkpoint_module, "MAX_WEIGHTS_BYTES", 100)
    assert f"{WEIGHTS}' has" in refused(adapter)[1]


def test_huge_sparse_file(adapter):
    os.truncate(adapter / WEIGHTS, 9 << 30)
    assert "at most 8589934592 are read" in refused(adapter)[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"r": 1,}', "not valid JSON"),
        (b"[]", "a list, not an object"),
        (b"7", "an int, not an object"),
        (b'{"lora_alpha": NaN}', "NaN is not a JSON number"),
        (b'{"lora_alpha": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"r": 1, "r": 2}', "the key 'r' is given more than once"),
        (b'{"a": {"b": 1, "b": 2}}', "the key 'b'"),
        (b'{"r": "\xff"}', "not valid JSON"),
        ('{"r": 1}'.encode("utf-16"), "not valid JSON"),
        (b'{"r": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"r": ' + b"[" * 400_000 + b"]" * 400_000 + b"}", "nested too deeply"),
        (b'{"r":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    ],
)
def test_bad_json(adapter, text, words):
    (adapter / CONFIG).write_bytes(text)
    code, message = refused(adapter)
    assert code == "invalid_adapter"
    assert words.removeprefix("an ").removeprefix("a ") in message


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape=(2,), dtype="F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


DATA = bytes(16)
CORRUPT = {
    "empty": b"",
    "short": b"\x01\x00",
    "length alone": struct.pack("<Q", 0),
    "length beyond the file": struct.pack("<Q", 1000) + b"{}",
    "length of 2**64 - 1": b"\xff" * 8 + b"{}",
    "no JSON": safetensors_bytes(b"not json"),
    "list": safetensors_bytes(b"[]"),
    "deep": safetensors_bytes(b"[" * 200_000),
    "repeated name": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "overlap": safetensors_bytes({"a": entry(0, 8), "b": entry(4, 12)}, DATA),
    "hole": safetensors_bytes({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "beyond the end": safetensors_bytes({"a": entry(0, 8), "b": entry(8, 16)}, bytes(12)),
    "left over": safetensors_bytes({"a": entry(0, 8)}, DATA),
    "backwards": safetensors_bytes({"a": entry(8, 0)}, DATA),
    "negative": safetensors_bytes({"a": entry(-8, 0)}, DATA),
    "size and shape differ": safetensors_bytes({"a": entry(0, 8, (3,))}, bytes(8)),
    "shape overflows": safetensors_bytes({"a": entry(0, 8, (1 << 62, 4))}, bytes(8)),
    "no offsets": safetensors_bytes({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "torch file": b"PK\x03\x04" + bytes(60),
    "pickle": b"\x80\x04\x95" + bytes(60),
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT.keys())
def test_corrupt_weights(adapter, content):
    (adapter / WEIGHTS).write_bytes(content)
    assert refused(adapter)[0] == "corrupt_adapter"


def test_a_header_that_is_cut_off_is_told(adapter):
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[:100])
    assert "the file has 100" in refused(adapter)[1]


def test_header_limit(adapter, monkeypatch):
    read_checkpoint(adapter)
    monkeypatch.setattr(parsing, "MAX_HEADER_BYTES", 64)
    code, message = refused(adapter)
    assert code == "corrupt_adapter"
    assert "more than 64" in message


def test_every_truncation(adapter):
    whole = (adapter / WEIGHTS).read_bytes()
    for size in [*range(40), *range(40, len(whole), 37), len(whole) - 1]:
        (adapter / WEIGHTS).write_bytes(whole[:size])
        assert refused(adapter)[0] == "corrupt_adapter", size


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("how", ["replace", "rewrite", "truncate", "delete", "swap directory"])
def test_change_while_reading(adapter, tmp_path, monkeypatch, name, how):
    """The change falls between the reading of the configuration and that of the weights."""
    other = write_lora(tmp_path / "other", spec=SMALL)
    changes = {
        "replace": lambda: os.replace(other / name, adapter / name),
        "rewrite": lambda: (adapter / name).write_bytes((adapter / name).read_bytes() + b" "),
        "truncate": lambda: os.truncate(adapter / name, 20),
        "delete": lambda: (adapter / name).unlink(),
        "swap directory": lambda: (
            adapter.rename(tmp_path / "old"),
            other.rename(adapter),
        ),
    }
    original = files.RegularFile.read
    pending = [changes[how]]

    def read(self, max_bytes):
        if max_bytes == checkpoint_module.MAX_WEIGHTS_BYTES:
            pending.pop()()
        return original(self, max_bytes)

    monkeypatch.setattr(files.RegularFile, "read", read)
    code, _ = refused(adapter)
    assert not pending
    assert code in ("corrupt_adapter", "invalid_adapter")


def test_no_descriptor_is_left_open(adapter):
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for _ in range(3):
        read_checkpoint(adapter)
    (adapter / WEIGHTS).write_bytes(b"")
    refused(adapter)
    (adapter / WEIGHTS).unlink()
    (adapter / WEIGHTS).mkdir()
    refused(adapter)
    assert open_files() == before


FUZZ = settings(
    max_examples=100,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def loads_or_is_refused(directory) -> None:
    try:
        adapter = load_adapter(directory, TINY)
    except AdapterError as error:
        message = error.message
    else:
        message = "loaded"
        factors = [each for delta in adapter.deltas.values() for each in (delta.a, delta.b)]
        assert all(torch.isfinite(factor).all() for factor in factors)
    assert 0 < len(message) < 2000
    assert "\n" not in message


def edited(whole: bytes, data) -> bytes:
    """Bytes with some of them changed, cut out, or put in."""
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "end"])):
            case "flip" if at < len(content):
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 64))]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=16))
            case "end":
                del content[at:]
    return bytes(content)


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_fuzzed_bytes(tmp_path_factory, name, data):
    directory = write_lora(tmp_path_factory.getbasetemp() / f"fuzz-{name}", spec=SMALL)
    path = directory / name
    path.write_bytes(edited(path.read_bytes(), data))
    loads_or_is_refused(directory)


def header_of(content: bytes) -> dict[str, dict[str, object]]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length])


@FUZZ
@given(data=st.data())
def test_fuzzed_header_fields(tmp_path_factory, data):
    """Valid JSON with wrong values gets further than flipped bytes do."""
    directory = write_lora(tmp_path_factory.getbasetemp() / "fuzz-header", spec=SMALL)
    path = directory / WEIGHTS
    content = path.read_bytes()
    header = header_of(content)
    start = 8 + struct.unpack("<Q", content[:8])[0]
    name = data.draw(st.sampled_from(sorted(header)))
    number = st.one_of(st.integers(-2, 70), st.integers(0, 1 << 65), st.none(), st.text())
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "extra"]))
    header[name][field] = data.draw(st.one_of(number, st.lists(number, max_size=4)))
    path.write_bytes(safetensors_bytes(header, content[start:]))
    loads_or_is_refused(directory)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = [
    "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
    "exclude_modules", "layers_to_transform", "init_lora_weights", "modules_to_save", "bias",
    "peft_type", "base_model_name_or_path", "use_dora", "task_type", "new_field",
]  # fmt: skip


@FUZZ
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=2))
def test_fuzzed_fields(tmp_path_factory, changes):
    directory = write_lora(tmp_path_factory.getbasetemp() / "fuzz-fields", spec=SMALL)
    path = directory / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    loads_or_is_refused(directory)


REGEX_PIECES = [
    "q", "_proj", ".", "*", "+", "?", "(", ")", "[", "]", "|", "\\w", "\\d", "{9}", "{1,99}", "^",
    "$", "layers", "\\.", "(?:", "(a+)+", "\\b", "-", "self_attn", "é",
]  # fmt: skip


@FUZZ
@given(
    pattern=st.lists(st.sampled_from(REGEX_PIECES), max_size=24).map("".join),
    field=st.sampled_from(["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"]),
)
def test_fuzzed_patterns(tmp_path_factory, pattern, field):
    directory = write_lora(tmp_path_factory.getbasetemp() / "fuzz-patterns", spec=SMALL)
    path = directory / CONFIG
    value = {pattern: 2} if field.endswith("pattern") else pattern
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    loads_or_is_refused(directory)
