"""Which server is asked, and in what form.

Owns: the address, the endpoint, the keys, and what a request's body and headers are made of.
Does not know: when requests are sent, and what prompts say (`prompts.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import msgspec


class Endpoint(StrEnum):
    """Which of OpenAI's endpoints is asked."""

    COMPLETIONS = "completions"
    CHAT = "chat"

    @property
    def path(self) -> str:
        """Below the base URL."""
        return "/v1/chat/completions" if self is Endpoint.CHAT else "/v1/completions"


class PromptForm(StrEnum):
    """What prompts are: words, token ids, or S-LoRA's one word that is repeated."""

    TEXT = "text"
    TOKENS = "tokens"
    REPEATED = "repeated"


Prompt = str | list[int]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server with OpenAI's API.

    Attributes:
        url: its address, with or without `/v1`.
        endpoint: which of its endpoints is asked.
        prompts: in which form. Token ids have their exact number; a chat has no such form.
        exact_length: whether it is told not to end an answer early (`ignore_eos`), which Motet,
            vLLM and SGLang can be told and others refuse. An answer of another length than was
            asked for is then an error.
        template: names of models for adapters that it does not list (`naming.py`).
        api_key: for everything, but for what tenants ask.
        tenant_keys: those of tenants, by their names in the workload.
        metrics_key: for `/metrics`; None is `api_key`.

    Raises:
        ValueError: an address or a template that cannot be, or a combination that there is not.
    """

    url: str
    endpoint: Endpoint = Endpoint.COMPLETIONS
    prompts: PromptForm = PromptForm.TEXT
    exact_length: bool = True
    template: str | None = None
    api_key: str | None = field(default=None, repr=False)
    tenant_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    metrics_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{self.url!r} is no address of a server: expected something like "
                "http://127.0.0.1:8000."
            )
        if parts.username is not None or parts.query or parts.fragment:
            # They would be shown in the results.
            raise ValueError(
                "The server's address has a user name or a query: expected scheme, host, port and "
                "path alone; keys are given apart from it."
            )
        if self.template is not None and not self.template.isprintable():
            raise ValueError(
                f"The template of models' names is {self.template!r}: expected printable text."
            )
        if self.endpoint is Endpoint.CHAT and self.prompts is PromptForm.TOKENS:
            raise ValueError(
                "A chat cannot be asked in token ids: take the endpoint completions, or prompts of "
                "text."
            )

    @property
    def root(self) -> str:
        """The address without `/v1`."""
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        keys = (self.api_key, self.metrics_key, *self.tenant_keys.values())
        return [key for key in keys if key]

    def key_of(self, tenant: str | None) -> str | None:
        """The key that a tenant's requests carry."""
        own = None if tenant is None else self.tenant_keys.get(tenant)
        return self.api_key if own is None else own

    def body(self, model: str, prompt: Prompt, num_output_tokens: int) -> bytes:
        """The JSON of a streamed, greedy request."""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": num_output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.exact_length:
            body["ignore_eos"] = True
        if self.endpoint is Endpoint.CHAT:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        return msgspec.json.encode(body)


def authorization(key: str | None) -> dict[str, str]:
    """The header that carries a key; none without one."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}
