"""The operations of whoever manages adapters.

Owns: what the document says of adapters and memory.
"""

from __future__ import annotations

from motet.server.admin_protocol import AliasRequest, CreateAdapterRequest, RollbackRequest
from motet.server.openapi import answers_adapters, answers_memory, error_codes
from motet.server.openapi.operation import Access, Answer, Body, Operation, Parameter
from motet.server.protocol import LoadAdapterRequest, UnloadAdapterRequest

_NAME = Parameter("name", "path", "The adapter's name, with any slashes.", {"type": "string"})
_NAME_OR_VERSION = Parameter(
    "name", "path", "The adapter's name, or NAME@3 for one version.", {"type": "string"}
)
_CHANGED = Answer("The adapter as it is now.", json=answers_adapters.ChangedAdapter)


def _change(verb: str, summary: str) -> Operation:
    """A change of an adapter that takes no body."""
    return Operation(
        "POST",
        f"/admin/v1/adapters/{{name}}:{verb}",
        f"{verb}_adapter",
        summary,
        "adapters",
        (_CHANGED,),
        error_codes.OF_CHANGES,
        access=Access.ADMIN,
        is_declared_json=True,
        parameters=(_NAME,),
    )


ADAPTERS = (
    Operation(
        "POST",
        "/admin/v1/adapters",
        "create_adapter",
        "Load a new version of an adapter, or name a composition.",
        "adapters",
        (
            Answer("It is loaded.", json=answers_adapters.StartedOperation),
            Answer("It is being loaded.", json=answers_adapters.StartedOperation, status=202),
        ),
        (*error_codes.OF_LOADS, *error_codes.OF_MODEL),
        access=Access.ADMIN,
        bodies=(Body(CreateAdapterRequest, {}, takes_nulls=False),),
    ),
    Operation(
        "GET",
        "/admin/v1/adapters",
        "list_adapters",
        "All adapters with their versions.",
        "adapters",
        (Answer("The adapters.", json=answers_adapters.AdapterList),),
        access=Access.ADMIN,
    ),
    Operation(
        "GET",
        "/admin/v1/adapters/{name}",
        "retrieve_adapter",
        "One adapter with its versions.",
        "adapters",
        (Answer("The adapter.", json=answers_adapters.Adapter),),
        ("adapter_not_found", "invalid_value"),
        access=Access.ADMIN,
        parameters=(_NAME,),
    ),
    Operation(
        "DELETE",
        "/admin/v1/adapters/{name}",
        "delete_adapter",
        "Delete a name with its versions, or one version; answers once its requests have ended.",
        "adapters",
        (Answer("It is deleted.", json=answers_adapters.DeletedAdapter),),
        (
            "adapter_not_found",
            "version_not_found",
            "adapter_in_use",
            "invalid_value",
            "engine_restarting",
        ),
        access=Access.ADMIN,
        parameters=(
            _NAME_OR_VERSION,
            Parameter(
                "drain_timeout_s",
                "query",
                "For how many seconds running requests may go on.",
                {"type": "number", "minimum": 0, "maximum": 3600},
            ),
            Parameter(
                "force",
                "query",
                "Also a version that the alias means; what is left of the alias takes over.",
                {"enum": ["true", "false", "1", "0"]},
            ),
        ),
    ),
    Operation(
        "PUT",
        "/admin/v1/adapters/{name}/alias",
        "put_alias",
        "Have a name mean other versions, in one step.",
        "adapters",
        (_CHANGED,),
        (*error_codes.OF_BODY, *error_codes.OF_CHANGES),
        access=Access.ADMIN,
        bodies=(Body(AliasRequest, {}, takes_nulls=False),),
        parameters=(_NAME,),
    ),
    Operation(
        "POST",
        "/admin/v1/adapters/{name}:rollback",
        "roll_back",
        "Have a name mean what it meant before.",
        "adapters",
        (_CHANGED,),
        (*error_codes.OF_BODY, *error_codes.OF_CHANGES),
        access=Access.ADMIN,
        bodies=(Body(RollbackRequest, {}, takes_nulls=False),),
        parameters=(_NAME,),
    ),
    _change("pin", "Keep an adapter on the device; answers once it is there."),
    _change("unpin", "Let an adapter be evicted again."),
    _change("warm", "Bring an adapter to the device, free to be evicted."),
    Operation(
        "GET",
        "/admin/v1/operations/{operation_id}",
        "retrieve_operation",
        "How a load stands.",
        "adapters",
        (Answer("The operation.", json=answers_adapters.AdapterOperation),),
        ("operation_not_found",),
        access=Access.ADMIN,
        parameters=(Parameter("operation_id", "path", "Its id.", {"type": "string"}),),
    ),
    Operation(
        "GET",
        "/admin/v1/events",
        "events",
        "What happens to adapters, as it happens; the kind of an event is in its `event` field.",
        "adapters",
        (Answer("The events.", event=answers_adapters.AdapterEvent),),
        access=Access.ADMIN,
        parameters=(
            Parameter(
                "last-event-id",
                "header",
                "The id of the last event that was seen: those since come first.",
                {"type": "string"},
            ),
        ),
    ),
)

LOADING = (
    Operation(
        "POST",
        "/v1/load_lora_adapter",
        "load_lora_adapter",
        "Load an adapter, or replace one, as vLLM does.",
        "adapters",
        (Answer("It is loaded.", text="text/plain"),),
        error_codes.OF_LOADS,
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
        (*error_codes.OF_BODY, "adapter_not_found", "adapter_in_use", "engine_restarting"),
        access=Access.ADMIN,
        bodies=(Body(UnloadAdapterRequest, {}),),
    ),
    Operation(
        "POST",
        "/load_lora_adapter",
        "load_lora_adapter_sglang",
        "Load an adapter, or replace one, as SGLang does.",
        "adapters",
        (
            Answer("It is loaded.", json=answers_adapters.SglangResult),
            Answer("It is not.", json=answers_adapters.SglangResult, status=400),
        ),
        access=Access.ADMIN,
        bodies=(Body(LoadAdapterRequest, {}),),
    ),
    Operation(
        "POST",
        "/unload_lora_adapter",
        "unload_lora_adapter_sglang",
        "Forget an adapter, as SGLang does; answers once its requests have ended.",
        "adapters",
        (
            Answer("It is forgotten.", json=answers_adapters.SglangResult),
            Answer("It is not.", json=answers_adapters.SglangResult, status=400),
        ),
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
