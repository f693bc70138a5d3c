"""What is known of one HTTP request besides its bytes: for logs, metrics and error messages.

Owns: `RequestContext`, and where it travels (a key of the ASGI scope).
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from motet.server.keys import KeyLimits
from motet.server.leases import Lease
from motet.server.principal import ANYONE, Principal
from motet.server.refusals import RefusalReason

if TYPE_CHECKING:  # what it carries; these raise errors, and an error's response is told here
    from motet.server.allowance import Allowance
    from motet.server.deadline import Deadline

_KEY = "motet.context"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a generation came to, over all its choices.

    Attributes:
        num_cached_tokens: prompt tokens that came from the prefix cache.
        queue_s, ttft_s: of the choice that came first; None if none had a token.
        finish_reasons: of the choices that ended, in the order of their ends.
    """

    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    queue_s: float | None
    ttft_s: float | None
    finish_reasons: tuple[str, ...]


@dataclass(slots=True)
class RequestContext:
    """Filled in by whoever learns something.

    Attributes:
        request_id: in the response's headers and every log line.
        status: what the request came to: the HTTP status, unless a stream broke after it.
        is_generation: whether it counts as a generation request.
        model_label: what metrics call its model, once that is known to exist.
        adapter_name: the model's name then; of a composition, those of its parts.
        adapter_versions: which versions of them it gets; none of the base model.
        lease: what keeps these versions until the request has ended.
        tenant: whose key the request came with, never the key itself. Requests of one tenant
            share cached prefixes; None without keys, or where all share.
        principal: who sent it, once authentication has said so.
        limits: of the key that it came with; None without a key.
        allowance: what it may use of these limits; None where there are none.
        deadline: when it must be done; only generation requests have one.
        error_code: the code of the error that it came to, if it did.
        refusal: why it was refused, if there was too much to do.
        figures: what its generation came to, once that has ended.
    """

    request_id: str
    started_s: float = field(default_factory=time.monotonic)
    status: int | None = None
    is_generation: bool = False
    model_label: str | None = None
    adapter_name: str | None = None
    adapter_versions: tuple[int, ...] = ()
    lease: Lease | None = None
    tenant: str | None = None
    principal: Principal = ANYONE
    limits: KeyLimits | None = None
    allowance: Allowance | None = None
    deadline: Deadline | None = None
    error_code: str | None = None
    refusal: RefusalReason | None = None
    figures: Figures | None = None


def put_context(scope: MutableMapping[str, Any], context: RequestContext) -> None:
    """Attach `context` to an ASGI scope."""
    scope[_KEY] = context


def context_of(scope: MutableMapping[str, Any]) -> RequestContext:
    """The context that the outermost middleware attached."""
    context: RequestContext = scope[_KEY]
    return context
