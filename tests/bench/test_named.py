"""Every workload by name is what its parameters and seed say, byte for byte, and for good."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from motet.bench.named import WORKLOADS, make_workload
from motet.bench.slora import SETTINGS
from motet.bench.workload import encode_workload, read_workload
from tests.bench.workloads import check, needed, write_trace

# Of `encode_workload`, with seed 42. A change here changes what results can be compared with:
# make it on purpose, and say so in the changelog.
PINNED = {
    "uniform": "5f7693c21f73d0a7b8ff35d8b128549a4e844ff2aad3d460fe2395d96406c674",
    "zipf": "47971fec8e437b49698946a89604f23cbc35403912a767c410178e7fb42f820a",
    "punica-skewed": "e018e6ae72b56d2051046c55269b6b306417b7fc24d32f84528f6cdfea5a2d7a",
    "conversations": "9d23c618158eb67d93b5c0d74378b9e4a9f9e2be5b939390271d240cbd031274",
    "tenants": "92e700dbfa4eff266f83d2b21ac51c493b4a2ff54beadeaaf5e1fa1b673977b4",
    "slora": "8b8cf22636c46ea59132960908332fb255d24e3cdd9bd36e32a1c48f838b7e72",
    "slora-a100-80-table": "bccd9ba84aa84f02c6b77f1ab08d0200d5a6e2d3b834fa062e2852b9a2b1acf3",
    "slora-ablation-cluster-cv": "f5eb28f6d6603d5b2ed1835a3af1f577fdfacda1d4c0e4d5986c0898a4d68802",
}

# The rows of S-LoRA's table of suites: adapters, alpha, rate, cv and duration at the last of the
# values that it goes through.
SUITES = {
    "slora-a10g-num-adapter": (200, 1, 2, 1, 300),
    "slora-a10g-alpha": (200, 1, 2, 1, 300),
    "slora-a10g-cv": (200, 1, 2, 8, 300),
    "slora-a10g-req-rate": (200, 1, 2.5, 1, 300),
    "slora-a100-40-num-adapter": (200, 1, 2, 1, 300),
    "slora-a100-80-s2-num-adapter": (200, 1, 10, 1, 300),
    "slora-a100-80-s4-num-adapter": (400, 1, 6, 1, 300),
    "slora-a100-80-s4-req-rate": (400, 1, 8, 1, 300),
    "slora-a100-80-s4-cv": (400, 1, 6, 8, 300),
    "slora-a100-80-table": (2000, 1, 10, 1, 120),
    "slora-ablation-no-mem": (200, 1, 2.5, 1, 300),
    "slora-ablation-cluster": (32, 1, 2, 1, 120),
    "slora-ablation-cluster-cv": (32, 1, 2, 8, 120),
    "slora-ablation-merge": (5, 1, 2, 1, 60),
    "slora-breakdown-h100": (1000, 0.8, 20, 1, 60),
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trace(tmp_path_factory.mktemp("trace") / "trace.csv")


@pytest.mark.parametrize("name", WORKLOADS)
def test_equal_seeds_give_equal_bytes_and_others_do_not(
    name: str, trace: Path, tmp_path: Path
) -> None:
    parameters = needed(name, trace)
    workload = make_workload(name, parameters, 7)
    check(workload)
    content = encode_workload(workload)
    assert content == encode_workload(make_workload(name, parameters, 7))
    path = tmp_path / "workload.jsonl"
    path.write_bytes(content)
    assert read_workload(path) == workload

    other = make_workload(name, parameters, 8)
    assert other.parameters.keys() == workload.parameters.keys()
    if name != "replay":  # a whole trace, in which nothing is left to chance
        assert other.requests != workload.requests


@pytest.mark.parametrize("name", PINNED)
def test_what_a_seed_stands_for_does_not_change(name: str) -> None:
    content = encode_workload(make_workload(name, {}, 42))
    assert hashlib.sha256(content).hexdigest() == PINNED[name]


@pytest.mark.parametrize("name", WORKLOADS)
def test_parameters_are_told_with_type_default_and_help(name: str, trace: Path) -> None:
    kind = WORKLOADS[name]
    assert kind.description
    defaults: dict[str, Any] = dict(needed(name, trace))
    for parameter in kind.parameters.values():
        assert parameter.help, parameter.name
        assert parameter.type_name, parameter.name
        assert parameter.is_required == (parameter.name in needed(name, trace))
        if not parameter.is_required:
            defaults[parameter.name] = parameter.default
    # The defaults as they are told are those that apply.
    told = make_workload(name, defaults, 3)
    assert told == make_workload(name, needed(name, trace), 3)
    assert {**told.parameters, "ranks": None} == {**defaults, "ranks": None}


def test_all_rows_of_s_loras_suites_are_there() -> None:
    rows = {name for name in WORKLOADS if name.startswith("slora-")}
    assert rows == {*SUITES, "slora-a10g-req-rate-real"}
    for name, (num_adapters, alpha, rate, cv, duration_s) in SUITES.items():
        parameters = make_workload(name, {}, 42).parameters
        assert parameters["num_adapters"] == num_adapters
        assert parameters["alpha"] == alpha
        assert parameters["rate_per_s"] == rate
        assert parameters["cv"] == cv
        assert parameters["duration_s"] == duration_s
        assert parameters["prompt_tokens"] == parameters["output_tokens"] == [8, 512]


@pytest.mark.parametrize("name", [name for name, kind in WORKLOADS.items() if kind.sweep])
def test_a_sweep_can_be_gone_through(name: str, trace: Path) -> None:
    kind = WORKLOADS[name]
    assert kind.sweep is not None
    assert kind.parameters[kind.sweep.parameter].default == kind.sweep.values[-1]
    for value in kind.sweep.values:
        parameters = {**needed(name, trace), kind.sweep.parameter: str(value)}
        assert make_workload(name, parameters, 42).parameters[kind.sweep.parameter] == value


@pytest.mark.parametrize("setting", SETTINGS)
def test_adapters_of_a_setting_have_its_ranks_in_turn(setting: str) -> None:
    workload = make_workload("slora", {"setting": setting, "num_adapters": 9}, 42)
    ranks = SETTINGS[setting].ranks
    assert workload.parameters["ranks"] == {
        f"{setting.lower()}-{index}": ranks[index % len(ranks)] for index in range(9)
    }


def test_an_unknown_name_is_answered_with_those_like_it() -> None:
    with pytest.raises(ValueError, match=r"no workload 'zip'\. Try zipf\."):
        make_workload("zip", {}, 1)
    with pytest.raises(ValueError, match=r"no workload '\?'\. Try uniform, zipf, .*replay"):
        make_workload("?", {}, 1)
