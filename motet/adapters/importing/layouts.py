"""The layouts that can be converted, by name, and the whole of a conversion.

Owns: which reader is whose.
Does not know: any layout.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from motet.adapters.checkpoint import CONFIG_NAME
from motet.adapters.importing.imported import ImportedSet, ImportOptions
from motet.adapters.importing.meteora import read_meteora
from motet.adapters.importing.mixlora import read_mixlora
from motet.adapters.importing.mola import read_mola
from motet.adapters.importing.source import TensorFiles, open_tensors, read_config
from motet.adapters.importing.writer import write_imported
from motet.adapters.router_config import RouterConfig
from motet.adapters.unconverted import refuse_unsupported
from motet.core.errors import AdapterError
from motet.core.shape import ModelShape

_Reader = Callable[[Path, TensorFiles, ImportOptions], ImportedSet]

LAYOUTS: Mapping[str, _Reader] = {
    "meteora": read_meteora,
    "mixlora": read_mixlora,
    "mola": read_mola,
}


def import_router(
    layout: str, source: Path, out: Path, shape: ModelShape, options: ImportOptions
) -> RouterConfig:
    """Convert a router and its experts to a routed set.

    Args:
        layout: a key of `LAYOUTS`.
        source: the checkpoint, a directory or a file.
        out: the set's directory, which is made.
        shape: the base model.
        options: what the checkpoint does not say.

    Returns:
        The configuration that was written.

    Raises:
        AdapterError: it is refused; nothing is left at `out`.
    """
    if layout not in LAYOUTS:
        raise AdapterError(f"There is no layout {layout!r:.60}; expected {', '.join(LAYOUTS)}.")
    if layout != "meteora" and (options.adapters is not None or options.order is not None):
        raise AdapterError(f"--adapters and --order are for meteora; {layout} has its own experts.")
    if (source / CONFIG_NAME).is_file():
        refuse_unsupported(read_config(source))
    with open_tensors(source) as files:
        return write_imported(LAYOUTS[layout](source, files, options), out, shape)
