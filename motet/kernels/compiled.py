"""How the CPU's loops are compiled: Numba's decorator, and where the machine code is kept.

Owns: the cache directory, and the helpers by which compiled code reads an address.
Does not know: what is compiled.

Numba's own cache does not see that another file has changed, be it a called function or the code
that generates a tile. So the directory is named by a digest of all kernel sources: a change in any
of them begins a new one. See docs/decisions/0004.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import carray, float32, int32, int64, njit, types
from numba.extending import intrinsic

_SOURCES = Path(__file__).parent

# Without `nnan` and `ninf`: what is computed from a NaN or an infinity stays one, so that a
# request whose numbers overflow is seen as such.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}

F = TypeVar("F", bound=Callable[..., Any])


def _cache_dir() -> Path:
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    beside = _SOURCES / "__pycache__"
    is_ours = os.access(beside if beside.exists() else _SOURCES, os.W_OK)
    name = f"numba-{digest.hexdigest()[:16]}"
    if not is_ours:
        return Path.home() / ".cache" / "motet" / name
    for other in beside.glob("numba-*"):  # of sources that are no more
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return beside / name


if not numba.config.CACHE_DIR:
    numba.config.CACHE_DIR = str(_cache_dir())


def compiled(**options: Any) -> Callable[[F], F]:
    """Numba's decorator, cached on disk, that keeps the function's type.

    A division by zero gives an infinity, as in NumPy: a test for it in a loop would keep it from
    being vectorized, which made SiLU eight times slower.
    """
    decorator: Callable[[F], F] = njit(cache=True, error_model="numpy", **options)
    return decorator


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing_context: Any, address: Any, dtype: Any) -> Any:
    """The integer `address` as a pointer to `dtype`."""
    result = types.CPointer(dtype.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, dtype), generate


@compiled()
def floats(address: int, index: int, length: int) -> Any:
    """`length` floats that start `index` floats after `address`, as an array."""
    return carray(pointer(address + 4 * index, float32), (length,))


@compiled()
def ints(address: int, length: int) -> Any:
    """`length` int32 from `address` on, as an array."""
    return carray(pointer(address, int32), (length,))


@compiled()
def integers(address: int, length: int) -> Any:
    """`length` int64 from `address` on, as an array."""
    return carray(pointer(address, int64), (length,))
