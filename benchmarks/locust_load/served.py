"""Asks a server what it serves.

Owns: the question, and what is made of its answer.
Does not know: what the models are asked.
"""

from dataclasses import dataclass
from typing import Any

import requests

from motet.bench.target import authorization

_TIMEOUT_S = 10


@dataclass(frozen=True)
class Served:
    """The models of a server, in its order, and which of them is the base."""

    names: tuple[str, ...]
    base: str


def ask_served(host: str, api_key: str | None) -> Served:
    """What the server lists.

    Raises:
        ValueError: it lists nothing, or refuses the key.
        requests.RequestException: it does not answer as it should.
    """
    response = requests.get(f"{host}/v1/models", headers=authorization(api_key), timeout=_TIMEOUT_S)
    if response.status_code == requests.codes.unauthorized:
        raise ValueError("the server refused the key: set MOTET_API_KEY.")
    response.raise_for_status()
    models: list[dict[str, Any]] = response.json()["data"]
    if not models:
        raise ValueError("the server has no models.")
    # Motet, vLLM and SGLang tell an adapter by its parent.
    bases = [model for model in models if model.get("parent") is None]
    return Served(names=tuple(model["id"] for model in models), base=(bases or models)[0]["id"])
