"""The log line of a request: who asked for what, and what became of it.

Owns: its fields. Never a prompt, an answer or a key: those that come from the client are the path
and, checked before, the request id.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from motet.server.context import Figures, RequestContext

_MAX_PATH_CHARS = 256


def log_fields(
    scope: MutableMapping[str, Any], context: RequestContext, status: int, duration_s: float
) -> dict[str, Any]:
    """What is known of a request that has been answered; what is not known is left out."""
    fields = {
        "request_id": context.request_id,
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH_CHARS],
        "status": status,
        "code": context.error_code,
        "refusal": None if context.refusal is None else context.refusal.value,
        "duration_ms": _ms(duration_s),
        "model": context.adapter_name,
        **_version_fields(context.adapter_versions),
        "tenant": context.principal.tenant,
        "key_id": context.principal.key_id,
        **({} if context.figures is None else _figure_fields(context.figures)),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _version_fields(versions: tuple[int, ...]) -> dict[str, Any]:
    """A field for one version, and another for those of a composition: each has one type."""
    match versions:
        case ():
            return {}
        case (version,):
            return {"version": version}
        case _:
            return {"versions": list(versions)}


def _figure_fields(figures: Figures) -> dict[str, Any]:
    return {
        "queue_ms": _ms(figures.queue_s),
        "ttft_ms": _ms(figures.ttft_s),
        "num_prompt_tokens": figures.num_prompt_tokens,
        "num_cached_tokens": figures.num_cached_tokens,
        "num_output_tokens": figures.num_output_tokens,
        "finish_reasons": list(figures.finish_reasons),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
