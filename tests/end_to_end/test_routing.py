"""Routed sets and compositions on the default model, served and asked as a user does it."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from motet.models.default_model import DEFAULT_MODEL_NAME, default_model_dir
from tests.end_to_end.oracle import Oracle, example_prompts
from tests.end_to_end.serving import EXAMPLE_ADAPTERS, Server, serve, wait_until_idle
from tests.end_to_end.test_storm_and_death import wait_until

pytestmark = pytest.mark.slow

HIDDEN, INTERMEDIATE, LAYERS = 576, 1536, 30  # of the default model
PLACES = {
    **{f"self_attn.{name}_proj": HIDDEN for name in "qkvo"},
    "mlp.gate_proj": HIDDEN,
    "mlp.up_proj": HIDDEN,
    "mlp.down_proj": INTERMEDIATE,
}
EXPERTS = ("iso-dates", "number-words", "text-to-sql")
OTHERS = ("durations", "json-extract", "vcard")
PROMPTS = example_prompts(EXAMPLE_ADAPTERS)
NUM_TOKENS = 20
ADAPTERS = "/admin/v1/adapters"
COMPLETIONS = "/v1/completions"


@dataclass(frozen=True)
class Sets:
    """Where sets are written, and what they may be made of."""

    root: Path
    digests: Mapping[str, str]

    def experts(self, names: Sequence[str]) -> list[dict[str, str]]:
        return [{"name": name, "digest": self.digests[name]} for name in names]

    def write(self, gates: Mapping[str, Tensor] | None = None, **fields: object) -> Path:
        """A set of plain adapters that the server knows; Arrow's if there are no gates."""
        directory = Path(tempfile.mkdtemp(dir=self.root))
        config = {
            "format_version": 1,
            "method": "arrow" if gates is None else "meteora",
            "base_model": {
                "name": DEFAULT_MODEL_NAME,
                "hidden_size": HIDDEN,
                "num_layers": LAYERS,
            },
            "experts": self.experts(EXPERTS),
            "top_k": 2,
            **fields,
        }
        (directory / "router_config.json").write_text(json.dumps(config))
        if gates is not None:
            save_file(dict(gates), directory / "router.safetensors")
        return directory


def random_gates(seed: int, num_experts: int = len(EXPERTS)) -> dict[str, Tensor]:
    """Of a size that leaves several experts a share of most tokens."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layers.{layer}.{place}.gate.weight": 0.05
        * torch.randn(num_experts, length, generator=generator)
        for layer in range(LAYERS)
        for place, length in PLACES.items()
    }


def load(http: httpx2.Client, name: str, directory: Path, **more: object) -> httpx2.Response:
    source = {"type": "path", "uri": str(directory)}
    return http.post(ADAPTERS, json={"name": name, "source": source, "wait": True, **more})


def compose(http: httpx2.Client, name: str, parts: dict[str, float]) -> httpx2.Response:
    source = {"type": "composition", "parts": parts}
    return http.post(ADAPTERS, json={"name": name, "source": source, "wait": True})


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def model_ids(http: httpx2.Client) -> list[str]:
    return [each["id"] for each in http.get("/v1/models").raise_for_status().json()["data"]]


def greedy(task: str, **named: object) -> dict[str, Any]:
    """A greedy request of a question that the adapter `task` was trained for."""
    body = {
        "model": DEFAULT_MODEL_NAME,
        "messages": [{"role": "user", "content": PROMPTS[task][0]["prompt"]}],
        "max_tokens": NUM_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    return {**body, **named}


def choice(http: httpx2.Client, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["choices"][0]
    return told


def token_ids(http: httpx2.Client, body: dict[str, Any]) -> list[int]:
    ids: list[int] = choice(http, body)["token_ids"]
    assert len(ids) == body["max_tokens"]
    return ids


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--adapter-root", str(root)]
    with serve(log, *arguments, "--pool-memory", "1GiB") as running:
        yield running
        wait_until_idle(running)


@pytest.fixture
def http(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def sets(server: Server, root: Path) -> Sets:
    """The digests are those that the server tells of adapters once it has read them."""
    digests = {}
    with server.client() as client:
        for name in (*EXPERTS, *OTHERS):
            body = {"model": name, "prompt": "x", "max_tokens": 1}
            client.post(COMPLETIONS, json=body).raise_for_status()
            digests[name] = client.get(f"/v1/models/{name}").json()["digest"]
    return Sets(root, digests)


@pytest.fixture(scope="module")
def routed(server: Server, sets: Sets) -> tuple[str, ...]:
    """The names of a set with random gates and of one that is only a configuration."""
    with server.client() as client:
        for name, gates in (("chosen", random_gates(1)), ("by-arrow", None)):
            loaded = load(client, name, sets.write(gates))
            assert loaded.status_code == 200, loaded.text
    return "chosen", "by-arrow"


def test_a_set_is_shown_with_what_it_is_made_of(
    http: httpx2.Client, sets: Sets, routed: tuple[str, ...]
) -> None:
    for name, method in zip(routed, ("meteora", "arrow"), strict=True):
        shown = http.get(f"/v1/models/{name}").json()
        assert shown["kind"] == "routed_set"
        assert shown["routing"]["method"] == method
        assert shown["routing"]["experts"] == sets.experts(EXPERTS)
        assert shown["num_pages"] > http.get(f"/v1/models/{EXPERTS[0]}").json()["num_pages"]


def test_all_kinds_at_once_equal_each_alone(server: Server, routed: tuple[str, ...]) -> None:
    """Two of each; once with every prompt computed in the crowd, once with all of it cached."""
    first, second, third = EXPERTS
    named: list[dict[str, object]] = [
        {},
        {"model": first},
        {"model": third},
        {"model": f"{first}+{second}"},
        {"lora": {first: 0.7, third: -0.4, second: 1.5}},
        {"lora": {second: 0.5}},
        *({"model": name} for name in routed),
    ]
    bodies = [
        greedy(EXPERTS[(i + j) % 3], **each) for i, each in enumerate(named) for j in range(2)
    ]

    async def ask(client: httpx2.AsyncClient, body: dict[str, Any], salt: str) -> list[int]:
        answer = await client.post("/v1/chat/completions", json={**body, "cache_salt": salt})
        assert answer.status_code == 200, answer.text
        ids: list[int] = answer.json()["choices"][0]["token_ids"]
        return ids

    async def run() -> list[list[list[int]]]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            alone = [await ask(client, body, "alone") for body in bodies]
            crowds = [
                await asyncio.gather(*(ask(client, body, salt) for body in bodies))
                for salt in ("crowd", "crowd", "alone")
            ]
            return [alone, *crowds]

    alone, *crowds = asyncio.run(run())
    of_each = [tuple(map(tuple, alone[i : i + 2])) for i in range(0, len(alone), 2)]
    assert len(set(of_each)) == len(named), "two of these are not told apart by their answers"
    for crowd in crowds:
        assert crowd == alone
    wait_until_idle(server)


def test_a_sole_part_of_weight_one_is_the_adapter_itself(http: httpx2.Client) -> None:
    name = EXPERTS[0]
    assert token_ids(http, greedy(name, lora={name: 1.0})) == token_ids(
        http, greedy(name, model=name)
    )


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"lora": {}}, (400, "invalid_value")),
        ({"lora": {"iso-dates": 0}}, (400, "invalid_value")),
        ({"model": "iso-dates+nobody"}, (404, "model_not_found")),
        ({"model": "iso-dates+iso-dates"}, (400, "invalid_value")),
        ({"model": "iso-dates+chosen"}, (400, "invalid_value")),
        ({"model": "iso-dates", "return_routing": True}, (400, "invalid_value")),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    http: httpx2.Client,
    routed: tuple[str, ...],
    named: dict[str, object],
    expected: tuple[int, str],
) -> None:
    answer = http.post("/v1/chat/completions", json=greedy(EXPERTS[0], **named))
    assert refusal(answer) == expected, answer.text


def stream(http: httpx2.Client, body: dict[str, Any]) -> dict[str, list[Any]]:
    """What the chunks of a stream have, one after another."""
    told: dict[str, list[Any]] = {"text": [], "token_ids": [], "routing": []}
    path = "/v1/chat/completions"
    with http.stream("POST", path, json={**body, "stream": True}) as lines:
        assert lines.status_code == 200
        for line in lines.iter_lines():
            data = line.removeprefix("data: ")
            if not data or data == "[DONE]":
                continue
            for each in json.loads(data)["choices"]:
                told["text"].append(each["delta"].get("content") or "")
                ids, routing = (each.get(key) or [] for key in ("token_ids", "routing"))
                assert len(routing) == len(ids)
                told["token_ids"] += ids
                told["routing"] += routing
    return told


@pytest.mark.parametrize("index", [0, 1])
def test_each_token_tells_which_experts_it_came_from(
    http: httpx2.Client, routed: tuple[str, ...], index: int
) -> None:
    body = greedy(EXPERTS[2], model=routed[index], return_routing=True, skip_special_tokens=False)
    whole = choice(http, body)
    assert len(whole["routing"]) == NUM_TOKENS
    for entry in whole["routing"]:
        weights = list(entry["experts"].values())
        assert set(entry["experts"]) <= set(EXPERTS)
        assert weights == sorted(weights, reverse=True)
        assert all(0 < weight <= 1 for weight in weights)
        assert sum(weights) == pytest.approx(1, abs=2e-4)
    assert len({entry["experts"][EXPERTS[2]] for entry in whole["routing"]}) > 1
    assert "".join(entry["token"] for entry in whole["routing"]) == whole["message"]["content"]
    told = stream(http, body)
    assert told["token_ids"] == whole["token_ids"]
    assert told["routing"] == whole["routing"]
    assert "".join(told["text"]) == whole["message"]["content"]
    assert "routing" not in choice(http, greedy(EXPERTS[2], model=routed[index]))


def test_completions_tell_it_for_each_of_their_choices(
    http: httpx2.Client, routed: tuple[str, ...]
) -> None:
    body = {"model": routed[0], "prompt": ["One", "Two and three"], "max_tokens": 5, "n": 2}
    more = {"return_routing": True, "logprobs": 0, "seed": 1, "ignore_eos": True}
    answer = http.post(COMPLETIONS, json={**body, **more}).raise_for_status()
    choices = answer.json()["choices"]
    assert len(choices) == 4
    for each in choices:
        tokens = [entry["token"] for entry in each["routing"]]
        assert tokens == each["logprobs"]["tokens"]
        assert len(tokens) == 5


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(default_model_dir(), {name: EXAMPLE_ADAPTERS / name for name in EXPERTS})


@pytest.mark.parametrize("expert", range(len(EXPERTS)))
def test_gates_that_always_choose_one_expert_give_that_adapter(
    http: httpx2.Client, sets: Sets, oracle: Oracle, expert: int
) -> None:
    """Its gate row lies along a direction that all inputs of its answers share; others are 0."""
    name = EXPERTS[expert]
    bodies = [greedy(task, model=name) for task in EXPERTS]
    wanted = [token_ids(http, body) for body in bodies]
    inputs = [
        oracle.inputs(name, [*oracle.chat_token_ids(PROMPTS[task][0]["prompt"]), *answer])
        for task, answer in zip(EXPERTS, wanted, strict=True)
    ]
    gates = {}
    for place in inputs[0]:
        x = torch.cat([each[place] for each in inputs]).double()
        direction = torch.linalg.lstsq(x, torch.ones(len(x), 1).double(), driver="gelsd").solution
        assert (x @ direction).min() > 0.9
        gate = torch.zeros(len(EXPERTS), x.shape[1])
        gate[expert] = 200 * direction[:, 0]
        gates[f"{place}.gate.weight"] = gate
    assert len(gates) == LAYERS * len(PLACES)
    always = f"always-{name}"
    loaded = load(http, always, sets.write(gates))
    assert loaded.status_code == 200, loaded.text
    for body, expected in zip(bodies, wanted, strict=True):
        told = choice(http, {**body, "model": always, "return_routing": True})
        assert told["token_ids"] == expected
        assert [entry["experts"] for entry in told["routing"]] == [{name: 1}] * NUM_TOKENS


def test_a_set_keeps_its_experts_until_it_is_deleted(http: httpx2.Client, sets: Sets) -> None:
    """Its own copy of an adapter as expert, so that no other set uses that version too."""
    theirs = shutil.copytree(EXAMPLE_ADAPTERS / "ticket-label", sets.root / "theirs")
    assert load(http, "mine", theirs).status_code == 200
    mine = {"name": "mine", "digest": http.get("/v1/models/mine").json()["digest"]}
    directory = sets.write(random_gates(2, 2), experts=[*sets.experts(EXPERTS[:1]), mine])
    assert load(http, "pair", directory, pin=True).status_code == 200
    assert http.get("/v1/models/pair").json()["pinned"] is True
    pinned = [each for each in http.get("/admin/v1/memory").json()["adapters"] if each["pinned"]]
    assert "pair" in {name for each in pinned for name in each["names"]}
    assert all(each["device_state"] == "resident" for each in pinned)
    body = greedy(EXPERTS[0], model="pair")
    before = token_ids(http, body)
    for path, params in (("mine", {}), ("mine@1", {"force": "true"})):
        assert refusal(http.delete(f"{ADAPTERS}/{path}", params=params)) == (409, "adapter_in_use")
    assert token_ids(http, body) == before
    assert http.post(f"{ADAPTERS}/pair:unpin", json={}).status_code == 200
    assert http.delete(f"{ADAPTERS}/pair").status_code == 200
    assert http.delete(f"{ADAPTERS}/mine").status_code == 200
    assert {"pair", "mine"}.isdisjoint(model_ids(http))
    gone = http.post("/v1/chat/completions", json=body)
    assert refusal(gone) == (404, "model_not_found")
    assert not any(each["pinned"] for each in http.get("/admin/v1/memory").json()["adapters"])


def test_sets_and_compositions_answer_again_after_the_engine_was_killed(
    server: Server, http: httpx2.Client, routed: tuple[str, ...]
) -> None:
    assert compose(http, "kept", {EXPERTS[0]: 0.5, EXPERTS[1]: 0.5}).status_code == 200
    bodies = [greedy(EXPERTS[0], model=name) for name in (*routed, "kept")]
    before = [token_ids(http, body) for body in bodies]
    assert http.post(f"{ADAPTERS}/{routed[0]}:pin", json={}).status_code == 200
    endless = {**bodies[1], "max_tokens": 2000, "stream": True, "return_routing": True}
    with http.stream("POST", "/v1/chat/completions", json=endless) as lines:
        events = (line for line in lines.iter_lines() if line)
        for _ in range(3):
            next(events)
        (engine,) = psutil.Process(server.process.pid).children()
        os.kill(engine.pid, signal.SIGKILL)
        *_, error, end = events
    assert end == "data: [DONE]"
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "engine_dead"
    wait_until(lambda: http.get("/ready").status_code == 200)
    report = http.get("/admin/v1/memory").json()["adapters"]
    pinned = [each for each in report if each["pinned"]]
    assert routed[0] in {name for each in pinned for name in each["names"]}
    assert [token_ids(http, body) for body in bodies] == before
    assert http.post(f"{ADAPTERS}/{routed[0]}:unpin", json={}).status_code == 200


def nan_gates() -> dict[str, Tensor]:
    gates = random_gates(3)
    gates["layers.7.mlp.down_proj.gate.weight"][1, 100] = float("nan")
    return gates


def wrong_shape() -> dict[str, Tensor]:
    return {**random_gates(3), "layers.7.mlp.down_proj.gate.weight": torch.ones(3, HIDDEN)}


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"experts": [{"name": EXPERTS[0], "digest": "0" * 64}]}, 400, EXPERTS[0]),
        ({"experts": [{"name": "nobody", "digest": "0" * 64}]}, 404, "nobody"),
        ({"gates": nan_gates}, 400, "layers.7.mlp.down_proj.gate"),
        ({"gates": wrong_shape}, 400, "'layers.7.mlp.down_proj.gate.weight' has shape [3, 576]"),
        ({"top_k": 4}, 400, "top_k"),
        ({"top_k": 0}, 400, "top_k"),
        ({"method": "roulette"}, 400, "roulette"),
        ({"topk": 2}, 400, "topk"),
        ({"temperature": 0}, 400, "temperature"),
        ({"base_model": {"name": "other", "hidden_size": 64, "num_layers": 2}}, 400, "64"),
    ],
)
def test_a_bad_set_is_refused_with_the_reason(
    http: httpx2.Client, sets: Sets, fields: dict[str, Any], status: int, reason: str
) -> None:
    fields = {"top_k": 1, "gates": partial(random_gates, 3), **fields}
    gates = fields.pop("gates")()
    assert_refused(http, sets.write(gates, **fields), status, reason)


def test_a_set_is_no_expert(http: httpx2.Client, sets: Sets, routed: tuple[str, ...]) -> None:
    digest = http.get(f"/v1/models/{routed[0]}").json()["digest"]
    experts = [{"name": routed[0], "digest": digest}, *sets.experts(EXPERTS[1:])]
    assert_refused(http, sets.write(random_gates(3), experts=experts), 400, routed[0])


def assert_refused(http: httpx2.Client, directory: Path, status: int, reason: str) -> None:
    """As a new name, and as another version of one that goes on as it was."""
    listed = model_ids(http)
    assert load(http, "good", EXAMPLE_ADAPTERS / EXPERTS[0]).status_code == 200
    shown = http.get("/v1/models/good").json()
    for name in ("bad", "good"):
        refused = load(http, name, directory)
        assert refused.status_code == status, refused.text
        assert reason in refused.json()["error"]["message"]
    asked = http.post(COMPLETIONS, json={"model": "bad", "prompt": "x", "max_tokens": 1})
    assert refusal(asked) == (404, "model_not_found")
    assert http.get("/v1/models/good").json() == shown
    assert http.delete(f"{ADAPTERS}/good").status_code == 200
    assert model_ids(http) == listed


def test_stored_compositions_and_sets_outlive_the_server(tmp_path: Path, sets: Sets) -> None:
    parts = {EXPERTS[0]: 0.6, EXPERTS[1]: 0.4}
    lasting = sets.write(random_gates(4))
    bodies = [greedy(EXPERTS[0], model=name) for name in ("blend", "lasting")]
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--adapter-root", str(sets.root)]
    arguments += ["--state-dir", str(tmp_path / "state"), "--pool-memory", "256MiB"]
    with serve(tmp_path / "first.log", *arguments) as first, first.client() as client:
        assert compose(client, "blend", parts).status_code == 200
        assert load(client, "lasting", lasting).status_code == 200
        before = [token_ids(client, body) for body in bodies]
        assert before[0] == token_ids(client, greedy(EXPERTS[0], lora=parts))
        shown = client.get("/v1/models/blend").json()
    with serve(tmp_path / "second.log", *arguments) as second, second.client() as client:
        assert {"blend", "lasting"} <= set(model_ids(client))
        for path, params in ((EXPERTS[0], {}), (f"{EXPERTS[0]}@1", {"force": "true"})):
            refused = client.delete(f"{ADAPTERS}/{path}", params=params)
            assert refusal(refused) == (409, "adapter_in_use")
        assert [token_ids(client, body) for body in bodies] == before
        assert client.get("/v1/models/blend").json() == shown
        assert client.delete(f"{ADAPTERS}/blend").status_code == 200
        still = client.delete(f"{ADAPTERS}/{EXPERTS[0]}")
        assert refusal(still) == (409, "adapter_in_use")
        assert "lasting" in still.json()["error"]["message"]
        assert client.delete(f"{ADAPTERS}/lasting").status_code == 200
        assert client.delete(f"{ADAPTERS}/{EXPERTS[0]}").status_code == 200


def test_sets_that_do_not_fit_together_take_turns(
    tmp_path: Path, http: httpx2.Client, sets: Sets
) -> None:
    """Room for either set and a few sequences; answers are those of a large pool."""
    names = ("ours", "others")
    directories = [
        sets.write(random_gates(5), experts=sets.experts(each)) for each in (EXPERTS, OTHERS)
    ]
    for name, directory in zip(names, directories, strict=True):
        assert load(http, name, directory).status_code == 200
    bodies = [greedy(task, model=name) for task in EXPERTS for name in names]
    expected = [token_ids(http, body) for body in bodies]
    pages = [http.get(f"/v1/models/{name}").json()["num_pages"] for name in names]
    size = http.get("/admin/v1/memory").json()["pages"]["size_bytes"]
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--adapter-root", str(sets.root)]
    arguments += ["--state-dir", str(tmp_path / "state")]

    async def run(url: str) -> list[httpx2.Response]:
        async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
            asked = (client.post("/v1/chat/completions", json=body) for body in bodies * 2)
            return await asyncio.gather(*asked)

    log = tmp_path / "server.log"
    with serve(log, *arguments, "--pool-memory", f"{(max(pages) + 20) * size}B") as small:
        with small.client() as client:
            assert client.get("/admin/v1/memory").json()["pages"]["total"] < sum(pages)
            for name, directory in zip(names, directories, strict=True):
                assert load(client, name, directory).status_code == 200
        answers = asyncio.run(run(small.url))
        assert [each.status_code for each in answers] == [200] * len(answers)
        told = [each.json()["choices"][0]["token_ids"] for each in answers]
        assert told == expected * 2
        wait_until_idle(small)
