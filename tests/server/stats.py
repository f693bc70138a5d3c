"""Snapshots of an engine and of a server for tests that need just any."""

from typing import Any

from motet.core.messages import EngineStats
from motet.server.engine_metrics import Snapshot


def some_stats(**fields: Any) -> EngineStats:
    """All figures are 0 and all lists empty, but for `fields`."""
    values: dict[str, Any] = {}
    for name in EngineStats.__struct_fields__:
        values[name] = [] if name.endswith("_adapters") and not name.startswith("num_") else 0
    return EngineStats(**{**values, "operation_id": "id", **fields})


def some_snapshot(**fields: Any) -> Snapshot:
    """Of a server without adapters whose engine has started once; but for `fields`."""
    values: dict[str, Any] = {
        "stats": None,
        "is_ready": True,
        "engine_pid": None,
        "num_engine_starts": 1,
        "model_name": "tiny",
        "page_size": 16,
        "num_adapters": 0,
        "num_queued_by_tenant": {},
        "names_of": lambda digest: [digest],
    }
    return Snapshot(**{**values, **fields})
