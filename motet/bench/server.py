"""What a server says of itself before a run: its models, its version, its tokens.

Owns: these questions, and what is made of servers that do not answer them.
Does not know: what is done with the answers.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import msgspec

from motet.bench.target import Target, authorization

AnswerT = TypeVar("AnswerT")

_TIMEOUT_S = 60.0
_MAX_VERSION_CHARS = 100


class ServerError(Exception):
    """The server did not answer what a run has to know; the message is for whoever runs it."""


@dataclass(frozen=True, kw_only=True)
class ServedModels:
    """Names of models; `base` is one of them, or the first if the server does not tell."""

    base: str
    names: list[str]


class _Card(msgspec.Struct, frozen=True):
    id: str
    parent: str | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Card]


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Version(msgspec.Struct, frozen=True):
    version: str


class Server:
    """A server that is asked a few questions, one after another."""

    def __init__(self, http: httpx2.AsyncClient, target: Target) -> None:
        self._http = http
        self._target = target

    async def models(self) -> ServedModels:
        """The models that it lists. Raises ServerError if there are none."""
        cards = (await self._asked("GET", "/v1/models", _Models)).data
        if not cards:
            raise ServerError(f"{self._target.url} serves no model.")
        # Adapters have the base model as their parent, where a server tells.
        base = next((card.id for card in cards if card.parent is None), cards[0].id)
        return ServedModels(base=base, names=[card.id for card in cards])

    async def version(self) -> str | None:
        """What it says its version is; None if it does not."""
        try:
            text = (await self._asked("GET", "/version", _Version)).version
        except ServerError:
            return None
        return text[:_MAX_VERSION_CHARS]

    async def tokenize(self, model: str, text: str) -> list[int]:
        """The token ids of a text. Raises ServerError if the server has no `/tokenize`."""
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return (await self._asked("POST", "/tokenize", _Tokens, body)).tokens

    async def _asked(
        self, method: str, path: str, kind: type[AnswerT], body: dict[str, Any] | None = None
    ) -> AnswerT:
        url = self._target.root + path
        keys = [self._target.api_key, *self._target.tenant_keys.values()]
        key = next((each for each in keys if each is not None), None)
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", **authorization(key)}
        try:
            response = await self._http.request(
                method, url, content=content, headers=headers, timeout=_TIMEOUT_S
            )
        except httpx2.HTTPError as error:
            raise ServerError(
                f"No answer from {url} ({type(error).__name__}). Is a server running there?"
            ) from error
        if response.status_code in (401, 403):
            raise ServerError(f"{url} asks for a key that is right: set MOTET_API_KEY.")
        if response.status_code != httpx2.codes.OK:
            raise ServerError(f"{url} answered {response.status_code}; it is needed for this run.")
        try:
            return msgspec.json.decode(response.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ServerError(f"{url} answered something else than expected: {error}.") from error
