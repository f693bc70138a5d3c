"""A snapshot of an engine for tests that need just any."""

from typing import Any

from motet.core.messages import EngineStats


def some_stats(**fields: Any) -> EngineStats:
    """All figures are 0 and all lists empty, but for `fields`."""
    values: dict[str, Any] = {}
    for name in EngineStats.__struct_fields__:
        values[name] = [] if name.endswith("_adapters") and not name.startswith("num_") else 0
    return EngineStats(**{**values, "operation_id": "id", **fields})
