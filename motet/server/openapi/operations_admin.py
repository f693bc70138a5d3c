"""The operations of whoever manages adapters.

Owns: what the document says of adapters and memory.
"""

from __future__ import annotations

from motet.server.openapi import answers_memory, error_codes
from motet.server.openapi.operation import Access, Answer, Body, Operation
from motet.server.protocol import LoadAdapterRequest, UnloadAdapterRequest

LOADING = (
    Operation(
        "POST",
        "/v1/load_lora_adapter",
        "load_lora_adapter",
        "Load an adapter, or replace one, as vLLM does.",
        "adapters",
        (Answer("It is loaded.", text="text/plain"),),
        (
            *error_codes.OF_BODY,
            *error_codes.OF_FILES,
            *error_codes.OF_ENGINE,
            "adapter_already_loaded",
            "pins_exceed_pool",
        ),
        access=Access.ADMIN,
        bodies=(Body(LoadAdapterRequest, {}),),
    ),
    Operation(
        "POST",
        "/v1/unload_lora_adapter",
        "unload_lora_adapter",
        "Forget an adapter, as vLLM does.",
        "adapters",
        (Answer("It is forgotten.", text="text/plain"),),
        (*error_codes.OF_BODY, "adapter_not_found"),
        access=Access.ADMIN,
        bodies=(Body(UnloadAdapterRequest, {}),),
    ),
)

MEMORY = (
    Operation(
        "GET",
        "/admin/v1/memory",
        "memory",
        "Where everything is: pages, tiers, adapters, hit rates.",
        "server",
        (Answer("The memory.", json=answers_memory.Memory),),
        error_codes.OF_ENGINE,
        access=Access.ADMIN,
    ),
)
