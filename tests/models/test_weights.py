"""Reading checkpoints: sharded, tied, damaged, mismatched, hostile; and finding a model."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from motet.core.errors import ConfigError, ModelError
from motet.kernels.linear_cpu import PackedMatrix
from motet.models import loader
from motet.models.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from motet.models.config import load_config
from motet.models.decoder import Decoder
from motet.models.loader import (
    load_decoder,
    resolve_dtype,
    resolve_model_dir,
    resolve_storage,
)
from motet.models.matrix import DenseMatrix, Matrix, matrix_maker
from motet.models.weights import random_weights, read_weights
from tests.models.tiny import TINY_MODELS, save_tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    save_tiny_model("llama", tmp_path)
    return tmp_path


def edit(model_dir: Path, **changes: Tensor | None) -> None:
    """Replace, add (a tensor) or remove (None) tensors; "__" in a name stands for a dot."""
    tensors = load_file(model_dir / SINGLE_FILE)
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, model_dir / SINGLE_FILE)


def values(matrix: Matrix) -> Tensor:
    return matrix.rows(torch.arange(matrix.out_features)).clone()


def refusal(model_dir: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_decoder(model_dir, CPU, torch.float32)
    return caught.value.message


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_layout(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = save_tiny_model(name, tmp_path).state_dict()
    config = load_config(tmp_path)
    with Checkpoint(tmp_path) as checkpoint:
        weights = read_weights(config, checkpoint, CPU, dtype)
    used = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}

    def same(found: Tensor | Matrix | None, *names: str) -> None:
        if names[0] not in state:
            assert found is None, f"{names} must be absent"
            return
        used.update(names)
        assert found is not None
        actual = found if isinstance(found, Tensor) else values(found)
        assert actual.dtype == dtype
        assert torch.equal(actual, torch.cat([state[n] for n in names]).to(dtype))

    same(weights.embedding, "model.embed_tokens.weight")
    same(weights.final_norm, "model.norm.weight")
    if config.tie_word_embeddings:
        assert weights.lm_head is None
    else:
        same(weights.lm_head, "lm_head.weight")
    for i, layer in enumerate(weights.layers):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        same(layer.attention_norm, f"model.layers.{i}.input_layernorm.weight")
        same(layer.mlp_norm, f"model.layers.{i}.post_attention_layernorm.weight")
        same(layer.qkv, *(f"{attention}.{p}_proj.weight" for p in "qkv"))
        same(layer.qkv_bias, *(f"{attention}.{p}_proj.bias" for p in "qkv"))
        same(layer.q_norm, f"{attention}.q_norm.weight")
        same(layer.k_norm, f"{attention}.k_norm.weight")
        same(layer.o, f"{attention}.o_proj.weight")
        same(layer.o_bias, f"{attention}.o_proj.bias")
        same(layer.gate_up, f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
        same(layer.gate_up_bias, f"{mlp}.gate_proj.bias", f"{mlp}.up_proj.bias")
        same(layer.down, f"{mlp}.down_proj.weight")
        same(layer.down_bias, f"{mlp}.down_proj.bias")
    assert used == set(state)


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("name", ["qwen2", "llama-tied-biased", "qwen3"])
def test_matrices_are_stored_as_asked_and_nothing_else_is(
    name: str, storage: torch.dtype, tmp_path: Path
) -> None:
    """Each matrix holds what packing the float32 one gives; norms and biases stay float32."""
    save_tiny_model(name, tmp_path)
    config = load_config(tmp_path)
    with Checkpoint(tmp_path) as checkpoint:
        plain = read_weights(config, checkpoint, CPU, torch.float32)
        weights = read_weights(config, checkpoint, CPU, torch.float32, storage)
    pairs = [(weights.embedding, plain.embedding), (weights.final_norm, plain.final_norm)]
    assert (weights.lm_head is None) == (plain.lm_head is None)
    if weights.lm_head is not None:
        pairs.append((weights.lm_head, plain.lm_head))
    for layer, plain_layer in zip(weights.layers, plain.layers, strict=True):
        pairs += [(getattr(layer, f), getattr(plain_layer, f)) for f in layer.__slots__]
    for stored, exact in pairs:
        if exact is None:
            assert stored is None
        elif isinstance(exact, Tensor):
            assert torch.equal(stored, exact)
            assert stored.dtype == torch.float32
        else:
            expected = PackedMatrix.pack(values(exact), storage)
            assert isinstance(stored, PackedMatrix)
            assert stored.panels.dtype == storage
            assert torch.equal(values(stored), values(expected))
            assert stored.num_bytes == expected.num_bytes


def test_random_weights_are_the_same_numbers_in_every_storage(model_dir: Path) -> None:
    config = load_config(model_dir)
    plain = random_weights(config, CPU, torch.float32, seed=3)
    stored = random_weights(config, CPU, torch.float32, seed=3, storage=torch.bfloat16)
    expected = values(plain.layers[2].down).bfloat16().float()
    assert torch.equal(values(stored.layers[2].down), expected)
    assert plain.embedding.num_bytes == 2 * stored.embedding.num_bytes


def test_which_matrix_a_device_and_a_dtype_take() -> None:
    weight = torch.randn(40, 48, generator=torch.Generator().manual_seed(4))
    for storage in (torch.float32, torch.bfloat16, torch.int8):
        assert isinstance(matrix_maker(CPU, torch.float32, storage)(weight), PackedMatrix)
    half = matrix_maker(CPU, torch.bfloat16, torch.bfloat16)(weight.bfloat16())
    assert isinstance(half, DenseMatrix)
    for device, dtype in ((CPU, torch.bfloat16), (torch.device("cuda"), torch.float32)):
        assert matrix_maker(device, dtype, dtype) is DenseMatrix
        with pytest.raises(AssertionError, match="are for a CPU that computes in float32"):
            matrix_maker(device, dtype, torch.int8)


def test_a_width_that_cannot_be_packed() -> None:
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(5))
    matrix = matrix_maker(CPU, torch.float32, torch.int8)(weight)
    assert isinstance(matrix, DenseMatrix)
    assert torch.equal(values(matrix), weight)
    assert (matrix.out_features, matrix.num_bytes) == (40, 40 * 50 * 4)


def test_sharded_checkpoint(tmp_path: Path) -> None:
    state = save_tiny_model("qwen2", tmp_path, max_shard_size="100KB").state_dict()
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    with Checkpoint(tmp_path) as checkpoint:
        assert checkpoint.names == set(state)
        for name, tensor in state.items():
            assert torch.equal(checkpoint.read(name, tuple(tensor.shape)), tensor)
    load_decoder(tmp_path, CPU, torch.float32)


def test_a_missing_shard(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path, max_shard_size="100KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    assert shard.name in refusal(tmp_path)


def test_an_index_that_promises_too_much(tmp_path: Path) -> None:
    save_tiny_model("llama", tmp_path, max_shard_size="100KB")
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    index["weight_map"]["model.norm.bias"] = sorted(index["weight_map"].values())[0]
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    assert "model.norm.bias" in refusal(tmp_path)


@pytest.mark.parametrize(
    "shard",
    ["../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", "x.bin", 3, "a\\b"],
)
def test_an_index_may_not_leave_its_directory(shard: object, tmp_path: Path) -> None:
    outside = tmp_path / SINGLE_FILE
    save_file({"model.norm.weight": torch.ones(2)}, outside)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / INDEX_FILE).write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    with pytest.raises(ModelError, match="bare name"):
        Checkpoint(inside)


@pytest.mark.parametrize("index", ["[", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_is_none(index: str, tmp_path: Path) -> None:
    (tmp_path / INDEX_FILE).write_text(index)
    with pytest.raises(ModelError, match=r"index\.json"):
        Checkpoint(tmp_path)


def test_a_truncated_file(model_dir: Path) -> None:
    path = model_dir / SINGLE_FILE
    path.write_bytes(path.read_bytes()[:-1000])
    assert "not a whole safetensors file" in refusal(model_dir)


def test_pickled_weights_are_not_read(model_dir: Path) -> None:
    (model_dir / SINGLE_FILE).rename(model_dir / "pytorch_model.bin")
    message = refusal(model_dir)
    assert "pytorch_model.bin" in message
    assert "safetensors" in message


def test_no_weights_at_all(model_dir: Path) -> None:
    (model_dir / SINGLE_FILE).unlink()
    assert SINGLE_FILE in refusal(model_dir)


def test_missing_tensors_are_named(model_dir: Path) -> None:
    edit(model_dir, model__layers__1__self_attn__k_proj__weight=None, lm_head__weight=None)
    message = refusal(model_dir)
    assert "model.layers.1.self_attn.k_proj.weight" in message
    assert "lm_head.weight" in message
    assert "lacks 2 tensors" in message


def test_unexpected_tensors_are_named(model_dir: Path) -> None:
    edit(
        model_dir,
        model__layers__0__self_attn__q_proj__bias=torch.zeros(96),
        model__layers__3__input_layernorm__weight=torch.zeros(96),
    )
    message = refusal(model_dir)
    assert "model.layers.0.self_attn.q_proj.bias" in message
    assert "model.layers.3.input_layernorm.weight" in message


def test_known_harmless_tensors_are_left_out(model_dir: Path) -> None:
    edit(model_dir, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8))
    load_decoder(model_dir, CPU, torch.float32)


def test_a_wrong_shape(model_dir: Path) -> None:
    edit(model_dir, model__layers__2__mlp__up_proj__weight=torch.ones(96, 160))
    message = refusal(model_dir)
    assert "model.layers.2.mlp.up_proj.weight" in message
    assert "[96, 160]" in message
    assert "[160, 96]" in message


def test_quantized_tensors_are_refused(model_dir: Path) -> None:
    edit(model_dir, model__layers__0__mlp__up_proj__weight=torch.ones(160, 96, dtype=torch.int8))
    assert "I8" in refusal(model_dir)


def test_a_tied_model_that_brings_a_head(tmp_path: Path) -> None:
    """The same head again is not kept twice; another one wins, as in transformers."""
    state = save_tiny_model("llama-tied-biased", tmp_path).state_dict()
    embedding = state["model.embed_tokens.weight"]
    config = load_config(tmp_path)
    for head, kept in [(embedding.clone(), False), (embedding + 1, True)]:
        edit(tmp_path, lm_head__weight=head)
        with Checkpoint(tmp_path) as checkpoint:
            weights = read_weights(config, checkpoint, CPU, torch.float32)
        assert (weights.lm_head is not None) == kept
        if weights.lm_head is not None:
            assert torch.equal(values(weights.lm_head), head)


def test_the_mapped_file_is_not_held(model_dir: Path) -> None:
    """Overwriting the checkpoint later does not reach into a loaded decoder."""
    config = load_config(model_dir)
    with Checkpoint(model_dir) as checkpoint:
        weights = read_weights(config, checkpoint, CPU, torch.float32)
    before = [values(weights.embedding), values(weights.layers[0].o)]
    path = model_dir / SINGLE_FILE
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert torch.equal(values(weights.embedding), before[0])
    assert torch.equal(values(weights.layers[0].o), before[1])


@pytest.mark.parametrize("name", TINY_MODELS)
def test_random_weights_have_the_shapes_of_real_ones(name: str, tmp_path: Path) -> None:
    save_tiny_model(name, tmp_path)
    config = load_config(tmp_path)
    with Checkpoint(tmp_path) as checkpoint:
        real = read_weights(config, checkpoint, CPU, torch.bfloat16)
    drawn = random_weights(config, CPU, torch.bfloat16, seed=1)
    for drawn_layer, real_layer in zip(drawn.layers, real.layers, strict=True):
        for field in real_layer.__slots__:
            a, b = getattr(drawn_layer, field), getattr(real_layer, field)
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                a, b = (each if isinstance(each, Tensor) else values(each) for each in (a, b))
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert (drawn.lm_head is None) == config.tie_word_embeddings
    Decoder(config, random_weights(config, CPU, torch.float32, seed=2))


def test_resolve_a_directory(model_dir: Path) -> None:
    assert resolve_model_dir(str(model_dir)) == model_dir


def test_resolve_the_default(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "default_model_dir", lambda: model_dir)
    assert resolve_model_dir(None) == model_dir


def test_resolve_a_gguf_file(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def convert(path: Path) -> Path:
        seen.append(path)
        return model_dir

    monkeypatch.setattr(loader, "gguf_as_hf_dir", convert)
    assert resolve_model_dir("some/model.gguf") == model_dir
    assert seen == [Path("some/model.gguf")]


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/dir", "a/b/c", "", "../x"])
def test_resolve_what_cannot_be_a_hub_id(model: str) -> None:
    with pytest.raises(ModelError, match="no hub id"):
        resolve_model_dir(model)


def test_resolve_a_hub_id_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="check the network"):
        resolve_model_dir("somebody/a-model-that-is-not-cached")


def test_resolve_dtype(model_dir: Path) -> None:
    gpu = torch.device("cuda")
    assert resolve_dtype(None, CPU, model_dir) == torch.float32
    assert resolve_dtype("bfloat16", CPU, model_dir) == torch.bfloat16
    assert resolve_dtype(None, gpu, model_dir) == torch.float32  # what the checkpoint names
    path = model_dir / "config.json"
    config = json.loads(path.read_text())
    for names, expected in [
        ({"torch_dtype": "float16"}, torch.float16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({}, torch.bfloat16),
    ]:
        config.pop("dtype", None)
        path.write_text(json.dumps({**config, **names}))
        assert resolve_dtype(None, gpu, model_dir) == expected
    with pytest.raises(ConfigError, match="float16"):
        resolve_dtype("int8", CPU, model_dir)


def test_resolve_storage() -> None:
    gpu = torch.device("cuda")
    for device in (CPU, gpu):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert resolve_storage(None, device, dtype) == dtype
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
    for name, storage in names.items():
        assert resolve_storage(name, CPU, torch.float32) == storage
    assert resolve_storage("bfloat16", CPU, torch.bfloat16) == torch.bfloat16
    assert resolve_storage("float32", gpu, torch.float32) == torch.float32


@pytest.mark.parametrize("name", ["int4", "float16", "", "INT8"])
def test_resolve_a_storage_that_there_is_not(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of float32, bfloat16, int8") as refused:
        resolve_storage(name, CPU, torch.float32)
    assert refused.value.param == "weights"


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("int8", "cuda", torch.float32),
        ("int8", "cpu", torch.bfloat16),
        ("float32", "cpu", torch.bfloat16),
        ("bfloat16", "cuda", torch.float16),
    ],
)
def test_resolve_a_storage_that_does_not_fit(name: str, device: str, dtype: torch.dtype) -> None:
    """The refusal says what the model runs in, and what to do."""
    with pytest.raises(ConfigError, match="leave --weights out") as refused:
        resolve_storage(name, torch.device(device), dtype)
    assert f"{str(dtype).removeprefix('torch.')} on {device}" in refused.value.message
    assert refused.value.param == "weights"
