"""The operations of whoever watches the server.

Owns: what the document says of health, metrics and itself.
"""

from __future__ import annotations

from typing import Any

from motet.server.openapi import answers, error_codes
from motet.server.openapi.operation import Access, Answer, Operation

SERVER = (
    Operation(
        "GET",
        "/live",
        "live",
        "Whether the API process answers.",
        "server",
        (Answer("It does.", json=answers.Health),),
        access=Access.OPEN,
    ),
    Operation(
        "GET",
        "/ready",
        "ready",
        "Whether requests are taken.",
        "server",
        (Answer("They are.", json=answers.Health),),
        (*error_codes.OF_ENGINE, "shutting_down"),
        access=Access.OPEN,
    ),
    Operation(
        "GET",
        "/health",
        "health",
        "As /ready.",
        "server",
        (Answer("Requests are taken.", json=answers.Health),),
        (*error_codes.OF_ENGINE, "shutting_down"),
        access=Access.OPEN,
    ),
    Operation(
        "GET",
        "/metrics",
        "metrics",
        "Prometheus metrics.",
        "server",
        (Answer("The metrics.", text="text/plain"),),
        error_codes.OF_ADMIN_ACCESS,  # for keys that may see some adapters only
    ),
    Operation(
        "GET",
        "/openapi.json",
        "openapi",
        "This document.",
        "server",
        (Answer("The document.", json=dict[str, Any]),),
    ),
)
