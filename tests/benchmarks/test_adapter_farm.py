"""Every adapter of a farm is one of its own to Motet, of the right rank, and cheap to make."""

from pathlib import Path

import pytest

from benchmarks.adapter_farm import ATTENTION, AdapterFarm, AdapterKind
from benchmarks.many_adapters.plan import TINY
from motet.adapters.delta import AdapterDeltas
from motet.adapters.peft_lora import load_adapter
from motet.core.shape import ModelShape, Module
from tests.benchmarks.tiny import write_tiny_model

# The shape of `write_tiny_model`.
SHAPE = ModelShape(
    num_layers=2,
    hidden_size=64,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=257,
)
MIXED = AdapterKind(name="mixed", ranks=(8, 16, 2))
NUM_ADAPTERS = 20


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), seed=11)


def make(model_dir: Path, directory: Path, seed: int = 1) -> AdapterFarm:
    farm = AdapterFarm(model_dir, directory / "weights", num_files_per_rank=3, seed=seed)
    farm.write(MIXED, NUM_ADAPTERS, directory / "farm")
    return farm


def load_all(directory: Path) -> list[AdapterDeltas]:
    names = [MIXED.adapter_name(index) for index in range(NUM_ADAPTERS)]
    assert sorted(path.name for path in (directory / "farm").iterdir()) == sorted(names)
    return [load_adapter(directory / "farm" / name, SHAPE) for name in names]


def test_every_adapter_loads_and_has_a_digest_of_its_own(model_dir: Path, tmp_path: Path) -> None:
    farm = make(model_dir, tmp_path)
    adapters = load_all(tmp_path)
    assert len({adapter.digest for adapter in adapters}) == NUM_ADAPTERS
    for index, adapter in enumerate(adapters):
        assert adapter.max_rank == MIXED.rank_of(index) == (8, 16, 2)[index % 3]
        assert set(adapter.modules) == {Module.Q, Module.K, Module.V, Module.O}
        assert adapter.num_parameters == farm.num_elems(MIXED, index)


def test_few_files_hold_the_weights_of_all(model_dir: Path, tmp_path: Path) -> None:
    make(model_dir, tmp_path)
    files = list((tmp_path / "weights").iterdir())
    assert len(files) == 3 * 3
    assert len({file.read_bytes() for file in files}) == 9
    assert sum(file.stat().st_nlink - 1 for file in files) == NUM_ADAPTERS


def test_the_same_seed_makes_the_same_adapters(model_dir: Path, tmp_path: Path) -> None:
    digests = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        make(model_dir, tmp_path / name, seed)
        digests[name] = [adapter.digest for adapter in load_all(tmp_path / name)]
    assert digests["one"] == digests["again"]
    assert not set(digests["one"]) & set(digests["other"])


def test_a_tiny_adapter_touches_one_module_of_one_layer(model_dir: Path, tmp_path: Path) -> None:
    farm = AdapterFarm(model_dir, tmp_path / "weights", num_files_per_rank=2, seed=1)
    farm.write(TINY, 4, tmp_path / "farm")
    adapters = [load_adapter(each, SHAPE) for each in (tmp_path / "farm").iterdir()]
    assert len({adapter.digest for adapter in adapters}) == 4
    assert {tuple(adapter.deltas) for adapter in adapters} == {((0, Module.Q),)}
    assert adapters[0].num_parameters == farm.num_elems(TINY, 0) == 2 * 64


def test_settings_touch_attention() -> None:
    assert ATTENTION == ("q_proj", "k_proj", "v_proj", "o_proj")
