"""`router_config.json`: what each field means, and what is refused."""

import copy
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.adapters.router_config import (
    BaseModelRef,
    ExpertRef,
    RouterConfig,
    check_base,
    is_routed_set,
    member_directory,
    parse_router_config,
    read_router_config,
    to_json,
    write_router_config,
)
from motet.adapters.routing_methods import METHODS
from motet.core.errors import AdapterError
from motet.core.routing import RoutingRule, Score, Share
from tests.adapters.make import TINY

DIGESTS = [letter * 64 for letter in "abc"]


def config_of(method: str = "meteora", /, **changes: object) -> dict[str, object]:
    num_experts = 1 if METHODS[method].rule.by_rank else 3
    config: dict[str, object] = {
        "format_version": 1,
        "method": method,
        "base_model": {"name": "tiny", "hidden_size": 32, "num_layers": 3},
        "experts": [
            {"name": f"e{i}", "digest": DIGESTS[i], "path": f"experts/e{i}"}
            for i in range(num_experts)
        ],
        "top_k": 2,
    }
    return {k: v for k, v in {**config, **changes}.items() if v is not None}


def parse(config: object) -> RouterConfig:
    return parse_router_config(json.dumps(config).encode())


def refusal(config: object) -> str:
    with pytest.raises(AdapterError) as caught:
        parse(config)
    return caught.value.message


@pytest.mark.parametrize(
    ("method", "fields", "rule"),
    [
        ("meteora", {"temperature": 15}, RoutingRule(2, temperature=15.0)),
        ("lora_mixer", {}, RoutingRule(2)),
        ("lora_mixer", {"renormalise": True}, RoutingRule(2)),
        ("lora_mixer", {"renormalise": False}, RoutingRule(2, share=Share.OF_ALL)),
        ("mola", {}, RoutingRule(2)),
        ("mixlora", {}, RoutingRule(2, per_block=True)),
        ("arrow", {}, RoutingRule(2, score=Score.ABSOLUTE)),
        ("smora", {}, RoutingRule(2, share=Share.EQUAL, by_rank=True, has_bias=True)),
        (
            "smora",
            {"gate_values": "softmax"},
            RoutingRule(2, share=Share.OF_CHOSEN, by_rank=True, has_bias=True),
        ),
        (
            "smora",
            {"gate_values": "softmax_of_all"},
            RoutingRule(2, share=Share.OF_ALL, by_rank=True, has_bias=True),
        ),
        (
            "mora",
            {"threshold": 0.25, "temperature": 0.5},
            RoutingRule(2, Score.SELF, Share.OF_ALL, 0.5, 0.25, by_rank=True),
        ),
        ("mora", {}, RoutingRule(2, Score.SELF, Share.OF_ALL, by_rank=True)),
    ],
)
def test_rule_of_each_method(method, fields, rule):
    config = parse(config_of(method, **fields))
    assert config.rule == rule
    assert parse(to_json(config)) == config


def test_every_method_is_tested_and_written_back():
    for method in METHODS:
        config = parse(config_of(method))
        assert config.method == method
        assert parse(to_json(config)) == config


def test_members_in_order():
    shared = [{"name": "always", "digest": "f" * 64}]
    config = parse(config_of(shared=shared))
    assert [member.name for member in config.members] == ["e0", "e1", "e2", "always"]
    assert config.shared == (ExpertRef("always", "f" * 64),)
    assert config.base == BaseModelRef("tiny", 32, 3)
    assert parse(to_json(config)) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "format_version"),
        ({"format_version": None}, "format_version"),
        ({"method": "xlora"}, "expected one of meteora, lora_mixer"),
        ({"method": None}, "method is None"),
        ({"method": ["meteora"]}, "method is ['meteora']"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 4}, "there are 3 experts"),
        ({"top_k": True}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": None}, "top_k"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"renormalise": True}, "'renormalise' is not known for this method"),
        ({"threshold": 0.1}, "'threshold' is not known for this method"),
        ({"sampling": 1}, "'sampling' is not known"),
        ({"experts": []}, "experts"),
        ({"experts": "e0"}, "experts"),
        ({"base_model": {"name": "x", "hidden_size": 32}}, "base_model.num_layers"),
        ({"base_model": {"name": "x", "hidden_size": 0, "num_layers": 3}}, "hidden_size"),
        ({"provenance": []}, "provenance"),
    ],
)
def test_refused_fields(changes, words):
    assert words in refusal(config_of(**changes))


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("lora_mixer", {"renormalise": 1}, "renormalise is 1; expected True or False"),
        ("smora", {"gate_values": "soft"}, "expected 'binary' or"),
        ("smora", {"gate_values": ["binary"]}, "expected 'binary' or"),
        ("mora", {"threshold": 2}, "from -1 to 1"),
        ("mora", {"threshold": True}, "from -1 to 1"),
        ("mora", {"threshold": 10**400}, "from -1 to 1"),
        ("mora", {"experts": config_of()["experts"]}, "ranks of one expert, but 3"),
    ],
)
def test_refused_fields_of_one_method(method, fields, words):
    assert words in refusal(config_of(method, **fields))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"digest": "A" * 64}, "digest"),
        ({"digest": "a" * 63}, "digest"),
        ({"digest": "a" * 64 + "\n"}, "digest"),
        ({"name": "e1"}, "'e1' is given to more than one"),
        ({"name": "a+b"}, "cannot be a name"),
        ({"name": "../e"}, "cannot be a name"),
        ({"name": 7}, "name"),
        ({"index": 0}, "experts.0.index"),
        ({"path": ""}, "expected one inside"),
        ({"path": "."}, "expected one inside"),
        ({"path": ".."}, "expected one inside"),
        ({"path": "../e0"}, "expected one inside"),
        ({"path": "/etc"}, "expected one inside"),
        ({"path": "//etc"}, "expected one inside"),
        ({"path": "experts/../../x"}, "expected one inside"),
        ({"path": "experts//e0"}, "expected one inside"),
        ({"path": "experts/e0/"}, "expected one inside"),
        ({"path": "a\0b"}, "expected one inside"),
        ({"path": "a\ud800b"}, "expected one inside"),  # no file can have this name
    ],
)
def test_refused_experts(changes, words):
    config = copy.deepcopy(config_of())
    config["experts"][0].update(changes)
    assert words in refusal(config)


def test_a_shared_adapter_cannot_have_an_experts_name():
    assert "more than one" in refusal(config_of(shared=[{"name": "e0", "digest": "f" * 64}]))


def test_too_many_experts():
    experts = [{"name": f"e{i}", "digest": "a" * 64} for i in range(257)]
    assert "experts" in refusal(config_of(experts=experts))
    assert len(parse(config_of(experts=experts[:256])).experts) == 256
    shared = [{"name": "s", "digest": "a" * 64}]
    assert "at most 256" in refusal(config_of(experts=experts[:256], shared=shared))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"method": "meteora", "method": "mola"}',
        b'{"method": NaN}',
        b"[" * 100_000,
    ],
)
def test_not_an_object(content):
    with pytest.raises(AdapterError):
        parse_router_config(content)


def test_base():
    config = parse(config_of())
    check_base(config, TINY)
    for changes in ({"hidden_size": 64}, {"num_layers": 2}):
        base = {"name": "tiny", "hidden_size": 32, "num_layers": 3, **changes}
        with pytest.raises(AdapterError) as caught:
            check_base(parse(config_of(base_model=base)), TINY)
        assert caught.value.code == "wrong_base_model"


def test_files(tmp_path):
    assert not is_routed_set(tmp_path)
    with pytest.raises(AdapterError, match="no router_config"):
        read_router_config(tmp_path)
    config = parse(config_of(provenance={"steps": 3, "note": "\u00fc"}))
    write_router_config(tmp_path, config)
    assert is_routed_set(tmp_path)
    assert read_router_config(tmp_path) == config


def test_what_could_not_be_read_is_not_written(tmp_path):
    config = parse(config_of())
    bad = RouterConfig(config.method, RoutingRule(9), config.base, config.experts)
    with pytest.raises(AdapterError, match="top_k is 9"):
        write_router_config(tmp_path, bad)
    assert not list(tmp_path.iterdir())


def test_links_are_confined(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "set"
    outside.mkdir()
    inside.mkdir()
    write_router_config(outside, parse(config_of()))
    (inside / "router_config.json").symlink_to(outside / "router_config.json")
    assert is_routed_set(inside)
    with pytest.raises(AdapterError) as caught:
        read_router_config(inside)
    assert caught.value.code == "path_not_allowed"
    read_router_config(inside, tmp_path)


def test_not_a_regular_file_or_too_large(tmp_path):
    path = tmp_path / "router_config.json"
    os.mkfifo(path)
    with pytest.raises(AdapterError, match="not a regular file"):
        read_router_config(tmp_path)
    path.unlink()
    path.touch()
    os.truncate(path, 100 << 20)
    with pytest.raises(AdapterError, match="at most 1048576"):
        read_router_config(tmp_path)


def test_member_directories(tmp_path):
    inside = ExpertRef("e0", "a" * 64, "experts/e0")
    with pytest.raises(AdapterError) as caught:
        member_directory(tmp_path, inside)
    assert caught.value.code == "adapter_not_found"
    (tmp_path / "set/experts").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set/experts/e0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError) as caught:
        member_directory(tmp_path / "set", inside)
    assert caught.value.code == "path_not_allowed"
    (tmp_path / "set/experts/e0").unlink()
    (tmp_path / "set/experts/e0").mkdir()
    expected = Path(os.path.realpath(tmp_path)) / "set/experts/e0"
    assert member_directory(tmp_path / "set", inside) == expected


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_mutated_configuration_is_read_or_refused(data):
    config = copy.deepcopy(config_of(data.draw(st.sampled_from(sorted(METHODS)))))
    target = data.draw(st.sampled_from([config, config["base_model"], config["experts"][0]]))
    names = [*target, "temperature", "renormalise", "gate_values", "threshold", "shared", "path"]
    target[data.draw(st.sampled_from(names))] = data.draw(JSON_VALUES)
    try:
        read = parse(config)
    except AdapterError:
        return
    assert parse(to_json(read)) == read
