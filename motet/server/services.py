"""What every endpoint works with.

Owns: nothing; it names the parts that `run.py` puts together.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from motet.server.adapter_admin import AdapterAdmin
from motet.server.config import ServeConfig
from motet.server.drain import Drain
from motet.server.engine_client import EngineClient
from motet.server.grammar_service import GrammarService
from motet.server.metrics import Metrics
from motet.server.registry import AdapterRegistry
from motet.server.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one server."""

    config: ServeConfig
    client: EngineClient
    registry: AdapterRegistry
    admin: AdapterAdmin
    tokenizer: TextTokenizer
    grammars: GrammarService
    metrics: Metrics
    drain: Drain


def services_of(request: Request) -> Services:
    """The services of the app that handles `request`."""
    services: Services = request.app.state.services
    return services
