"""A router that others made, as a routed set for a model: without an engine.

Owns: this conversion, for `motet import-router`.
Does not know: layouts, nor how it is asked for.
"""

from __future__ import annotations

from pathlib import Path

from motet.adapters.importing.imported import ImportOptions
from motet.adapters.importing.layouts import import_router
from motet.adapters.router_config import RouterConfig
from motet.models.config import load_config


def import_router_for(
    model_dir: Path, layout: str, source: Path, out: Path, options: ImportOptions
) -> RouterConfig:
    """See `import_router`; the shape is that of a model's directory.

    Raises:
        ModelError: the model's config cannot be read.
        AdapterError: the router is refused.
    """
    return import_router(layout, source, out, load_config(model_dir).shape, options)
