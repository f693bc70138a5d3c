"""Which errors operations have in common.

Owns: the sets of codes that the tables of operations are made of.
Does not know: statuses (`errors.py`).
"""

from __future__ import annotations

# Of HTTP itself, before any route is looked for.
OF_HTTP = (
    "invalid_http",
    "request_timeout",
    "url_too_long",
    "headers_too_large",
    "request_too_large",
    "too_many_connections",
    "internal_error",
)
# Of whoever asks. The last is for routes that another listener has.
OF_ACCESS = ("invalid_api_key", "host_not_allowed", "rate_limit_exceeded", "unknown_url")
OF_ADMIN_ACCESS = ("insufficient_permissions",)

UNDECLARED = ("unsupported_media_type",)  # a change has to be declared as JSON, body or none
OF_BODY = (
    *UNDECLARED,
    "invalid_json",
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "unknown_parameter",
)
OF_MODEL = ("model_not_found",)
OF_FILES = (
    "adapter_not_found",
    "adapter_too_large",
    "corrupt_adapter",
    "digest_mismatch",
    "invalid_adapter",
    "path_not_allowed",
    "unsupported_adapter",
    "unsupported_format",
    "wrong_base_model",
)
OF_ENGINE = ("engine_dead", "engine_restarting")
OF_CHANGES = (
    *UNDECLARED,
    *OF_FILES,
    *OF_ENGINE,
    "invalid_value",
    "adapter_deleted",
    "adapter_unavailable",
    "alias_changed",
    "nothing_to_roll_back",
    "pins_exceed_pool",
    "source_unavailable",
    "version_not_found",
    "version_not_ready",
)
OF_LOADS = (
    *OF_BODY,
    *OF_CHANGES,
    "adapter_already_loaded",
    "source_not_allowed",
)
OF_GENERATION = (
    *OF_BODY,
    *OF_MODEL,
    *OF_FILES,
    *OF_ENGINE,
    "unsupported_parameter",
    "grammar_error",
    "context_length_exceeded",
    "pool_too_small",
    "adapter_unavailable",
    "overloaded",
    "shutting_down",
    "timeout",
)
OF_TOKENS = (*OF_BODY, *OF_MODEL, "unsupported_parameter", "engine_restarting")
