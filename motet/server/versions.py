"""Taking a version of an adapter in the engine, and giving it back: reference and pin together.

Owns: what a name holds in the engine, and the order in which it is taken and given back.
Does not know: which names there are, nor what keeps two loads of one name apart (`registry.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from motet.adapters.roots import confine
from motet.core.errors import AdapterError
from motet.server.catalogue import Adapter
from motet.server.engine_client import AdapterReference, EngineClient
from motet.server.errors import adapter_refusal

_log = structlog.get_logger()


class Versions:
    """References and pins in the running engine.

    Args:
        roots: directories that a first load may read below.
    """

    def __init__(self, client: EngineClient, roots: Sequence[Path]) -> None:
        self._client = client
        self._roots = tuple(roots)

    def is_loaded(self, adapter: Adapter) -> bool:
        """Whether the running engine holds it."""
        return self._client.holds(adapter.reference)

    async def take(self, path: Path, *, is_pinned: bool) -> AdapterReference:
        """Load what lies at a resolved path, and pin it if asked to. All or nothing.

        Raises:
            AdapterError: the engine refuses the adapter, or the pin (`param` is then "pinned").
            MotetError: the engine died meanwhile.
        """
        reference = await self._client.load_adapter(path)
        if is_pinned:
            try:
                await self._client.pin_adapter(reference)
            except BaseException as error:
                self._client.release_adapter(reference)
                if isinstance(error, AdapterError):
                    raise adapter_refusal(error.message, "pinned", code=error.code) from error
                raise
        return reference

    async def take_again(self, adapter: Adapter, param: str) -> Adapter:
        """Load what a name means: whatever is there at first, the same content ever after.

        Args:
            param: the field that named the adapter, for errors.

        Raises:
            AdapterError: it cannot be loaded; `adapter_unavailable` if it could be before.
            MotetError: the engine died meanwhile.
        """
        try:
            known = adapter.reference is not None
            path = adapter.path if known else confine(adapter.path, self._roots)
            reference = await self._client.load_adapter(path)
        except AdapterError as error:
            raise _unusable(adapter, error, param) from error
        if adapter.digest not in (None, reference.info.digest):
            self._client.release_adapter(reference)
            raise _changed(adapter, param)
        taken = replace(adapter, path=path, reference=reference)
        return await self._pinned_again(taken) if adapter.is_pinned else taken

    async def pin(self, adapter: Adapter) -> Adapter:
        """Pin a loaded adapter. Raises AdapterError if the pool is too small for one more."""
        assert adapter.reference is not None
        try:
            await self._client.pin_adapter(adapter.reference)
        except AdapterError as error:
            raise adapter_refusal(error.message, "name", code=error.code) from error
        return replace(adapter, is_pinned=True)

    def unpin(self, adapter: Adapter) -> Adapter:
        """Take the pin of an adapter back."""
        if adapter.reference is not None:
            self._client.unpin_adapter(adapter.reference)
        return replace(adapter, is_pinned=False)

    def give_back(self, adapter: Adapter) -> None:
        """Give back all that a name holds; requests that run on it end as they began."""
        if adapter.reference is None:
            return
        if adapter.is_pinned:
            self._client.unpin_adapter(adapter.reference)
        self._client.release_adapter(adapter.reference)

    async def _pinned_again(self, adapter: Adapter) -> Adapter:
        try:
            return await self.pin(adapter)
        except AdapterError as error:
            # It can be served without; whoever looks must not believe that it is pinned.
            _log.error("adapter no longer pinned", adapter=adapter.name, reason=error.message)
            return replace(adapter, is_pinned=False)
        except BaseException:
            assert adapter.reference is not None
            self._client.release_adapter(adapter.reference)
            raise


def _unusable(adapter: Adapter, error: AdapterError, param: str) -> AdapterError:
    if adapter.reference is None:
        message = f"The adapter {adapter.name!r} cannot be loaded: {error.message}"
        return adapter_refusal(message, param, code=error.code)
    return adapter_refusal(
        f"The adapter {adapter.name!r} cannot be brought back from its files: {error.message}",
        param,
        code="adapter_unavailable",
    )


def _changed(adapter: Adapter, param: str) -> AdapterError:
    return adapter_refusal(
        f"The files of the adapter {adapter.name!r} changed since it was loaded; load it again "
        "with load_inplace to serve the new ones.",
        param,
        code="adapter_unavailable",
    )
