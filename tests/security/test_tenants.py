"""What one tenant learns of another: names, prompts, answers, use. Over a real engine."""

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest

from motet.core.errors import ConfigError
from motet.server.config import ServeConfig
from motet.server.key_file import read_keys
from motet.server.key_ring import fixed_keys
from tests.security.hostile_files import write_good
from tests.security.real_server import ADMIN, ALICE, API, BOB, RealServer
from tests.server.some_keys import bearer, some_key, write_keys

pytestmark = pytest.mark.slow

SECRET = "alice-secret-project"
PROMPT = "The password of the vault is " * 8  # several pages


@pytest.fixture(scope="module")
def shared(real: RealServer) -> RealServer:
    """Alice has an adapter, and so has Bob."""
    for name, seed in ((SECRET, 1), ("bob-own", 2)):
        loaded = real.load(name, write_good(real.root / name, seed=seed))
        assert loaded.status_code == 200, loaded.text
    assert real.complete(ALICE, model=SECRET).status_code == 200
    return real


def cached(answer: httpx2.Response) -> int:
    assert answer.status_code == 200, answer.text
    count: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return count


def asking(model: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Every way to name a model."""
    messages = [{"role": "user", "content": "x"}]
    return [
        ("POST", "/v1/completions", {"model": model, "prompt": "x"}),
        ("POST", "/v1/completions", {"model": model, "prompt": "x", "stream": True}),
        ("POST", "/v1/chat/completions", {"model": model, "messages": messages}),
        ("POST", "/v1/responses", {"model": model, "input": "x"}),
        ("POST", "/tokenize", {"model": model, "prompt": "x"}),
        ("POST", "/tokenize", {"model": model, "messages": messages}),
        ("POST", "/detokenize", {"model": model, "tokens": [1]}),
        ("GET", f"/v1/models/{model}", {}),
    ]


def ask(
    server: RealServer, key: str, method: str, path: str, body: dict[str, Any]
) -> httpx2.Response:
    json = body if method == "POST" else None
    return server.http.request(method, path, json=json, headers=bearer(key))


SPELLINGS = [SECRET, f"tiny:{SECRET}", f"{SECRET}@1", f"{SECRET}@v1", f"tiny:{SECRET}@1"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_adapter_of_another_is_as_if_it_were_not_there(
    shared: RealServer, spelling: str
) -> None:
    """The very same answer, but for the name and the headers that differ from call to call."""
    nothing = spelling.replace("secret", "nothin")
    for own, other in zip(asking(spelling), asking(nothing), strict=True):
        assert ask(shared, ALICE, *own).status_code == 200, own
        seen = ask(shared, BOB, *own)
        unseen = ask(shared, BOB, *other)
        assert seen.status_code == unseen.status_code == 404
        assert seen.text.replace("secret", "nothin") == unseen.text
        assert seen.headers.keys() == unseen.headers.keys()


@pytest.mark.parametrize(
    "spelling",
    [
        *(SECRET.upper(), f" {SECRET}", f"{SECRET} ", f"{SECRET}\n", f"{SECRET}\0", f"./{SECRET}"),
        *(f"bob-own/../{SECRET}", f"bob-own@1@{SECRET}", f"bob-own:{SECRET}", f"bob-*:{SECRET}"),
        *(f"tiny:tiny:{SECRET}", f"tiny:bob-own:{SECRET}", f"{SECRET}@0", f"{SECRET}@1@1", "*"),
        *(f"bob-own+{SECRET}", f"bob-own,{SECRET}", "alice-*", f"{SECRET}#bob-own", f"@{SECRET}"),
    ],
)
def test_no_spelling_opens_it(shared: RealServer, spelling: str) -> None:
    for method, path, body in asking(spelling)[:-1]:
        assert ask(shared, BOB, method, path, body).status_code == 404
    assert "digest" not in shared.http.get("/v1/models/" + SECRET, headers=bearer(BOB)).text


def test_lists_and_metrics_do_not_name_it(shared: RealServer) -> None:
    listed = shared.http.get("/v1/models", headers=bearer(BOB))
    assert [each["id"] for each in listed.json()["data"]] == ["tiny", "bob-own"]
    assert SECRET not in listed.text
    for path in ("/metrics", "/admin/v1/memory", "/admin/v1/adapters", "/admin/v1/events"):
        refused = shared.http.get(path, headers=bearer(BOB))
        assert refused.status_code == 403
        assert SECRET not in refused.text + str(refused.headers)
    assert SECRET in shared.http.get("/metrics", headers=bearer(API)).text


def test_nobody_learns_by_the_cache_what_another_has_asked(shared: RealServer) -> None:
    assert cached(shared.complete(ALICE, prompt=PROMPT)) == 0
    own = cached(shared.complete(ALICE, prompt=PROMPT))
    assert own > 0
    for key in (BOB, API, ADMIN):
        assert cached(shared.complete(key, prompt=PROMPT)) == 0
    assert cached(shared.complete(ALICE, prompt=PROMPT)) == own


def test_no_salt_leads_into_the_cache_of_another(shared: RealServer) -> None:
    prompt = PROMPT.upper()
    assert cached(shared.complete(ALICE, prompt=prompt, cache_salt="s")) == 0
    assert cached(shared.complete(ALICE, prompt=prompt, cache_salt="s")) > 0
    for salt in ("s", "alice", "alice|s", '["alice","s"]', "alice\0s", "null", "None", ""):
        params = {"cache_salt": salt} if salt else {}
        assert cached(shared.complete(BOB, prompt=prompt, **params)) == 0, salt
    # Nor into one's own without it, nor with another.
    assert cached(shared.complete(ALICE, prompt=prompt)) == 0
    assert cached(shared.complete(ALICE, prompt=prompt, cache_salt="t")) == 0


@pytest.mark.parametrize(
    "header", ["X-Tenant", "OpenAI-Organization", "OpenAI-Project", "X-Key-Id"]
)
def test_nothing_that_a_client_says_makes_it_another_tenant(
    shared: RealServer, header: str
) -> None:
    body = {"model": "tiny", "prompt": header + PROMPT, "max_tokens": 1, "user": "alice"}
    for key, expected in ((ALICE, 0), (BOB, 0)):
        headers = {**bearer(key), header: "alice"}
        assert cached(shared.http.post("/v1/completions", json=body, headers=headers)) == expected


@pytest.mark.parametrize("name", ["api", "admin", "api-key", "admin-key", "--api-key", "none"])
def test_no_tenant_of_a_file_is_that_of_an_option(tmp_path: Path, name: str) -> None:
    """Nor does one of its keys count on the limits of an option's, or act in its name."""
    config = ServeConfig(api_key=API, admin_key=ADMIN)
    taken = {value for key in fixed_keys(config) for value in (key.id, key.tenant)}
    write_keys(tmp_path / "keys.json", some_key(name, "secret", tenant=name))
    try:
        keys = read_keys(tmp_path / "keys.json")
    except ConfigError:
        keys = []
    assert not taken & {value for key in keys for value in (key.id, key.tenant)}


def test_an_adapter_shares_no_cache_with_another_even_in_one_tenant(shared: RealServer) -> None:
    prompt = PROMPT.title()
    assert cached(shared.complete(ADMIN, prompt=prompt, model=SECRET)) == 0
    assert cached(shared.complete(ADMIN, prompt=prompt, model=SECRET)) > 0
    assert cached(shared.complete(ADMIN, prompt=prompt, model="bob-own")) == 0
    assert cached(shared.complete(ADMIN, prompt=prompt)) == 0


def test_pages_that_were_anothers_do_not_show_in_an_answer(shared: RealServer) -> None:
    """Churn through the pool several times; the answer stays what it was in fresh pages."""
    body = {"prompt": "Once upon a time", "max_tokens": 24, "logprobs": 5}
    before = shared.complete(BOB, **body).json()["choices"]
    for i in range(24):
        key, model = ((ALICE, SECRET), (BOB, "bob-own"), (API, "tiny"))[i % 3]
        prompt = [(i * 37 + j * 11) % 250 for j in range(480)]
        shared.complete(key, model=model, prompt=[prompt, prompt[::-1]], max_tokens=8)
    after = shared.complete(BOB, **body).json()["choices"]
    told = [choice["logprobs"]["tokens"] for choice in (*before, *after)]
    assert told[0] == told[1]
    for old, new in zip(before, after, strict=True):
        pairs = zip(
            old["logprobs"]["token_logprobs"], new["logprobs"]["token_logprobs"], strict=True
        )
        assert all(a == pytest.approx(b, abs=1e-3) for a, b in pairs)


def test_no_prompt_no_answer_and_no_key_is_in_the_log(shared: RealServer) -> None:
    mark = "zqxjkvbpywmark"
    answer = shared.complete(ALICE, prompt=mark, echo=True, user=mark, cache_salt=mark, stop=[mark])
    assert answer.status_code == 200
    body = {"model": "tiny", "messages": [{"role": "user", "content": mark, "name": mark}]}
    for path, content in (
        ("/v1/chat/completions", body),
        ("/v1/chat/completions", {**body, "temperature": mark}),
        ("/v1/chat/completions", {**body, mark: mark}),
        ("/v1/responses", {"model": "tiny", "input": mark}),
        ("/tokenize", {"model": "tiny", "prompt": mark}),
        (
            "/v1/completions",
            {"model": "tiny", "prompt": mark, "structured_outputs": {"regex": mark}},
        ),
    ):
        shared.http.post(path, json=content, headers=bearer(ALICE))
    shared.http.get("/v1/models", headers=bearer(mark))
    shared.http.get(f"/v1/models?key={mark}", headers=bearer(ALICE))
    for secret in (mark, ALICE, BOB, API, ADMIN):
        assert secret not in shared.log
    assert "Traceback" not in shared.log
    metrics = shared.http.get("/metrics", headers=bearer(API)).text
    assert not re.search("|".join((mark, ALICE, BOB, API, ADMIN)), metrics)
