"""The names that requests may use, and the adapter behind each.

Owns: which name means which digest, and the order in which a swap happens.
Does not know: HTTP, nor what an adapter holds (the engine checks that).

A request takes its digest when it is admitted. A reload swaps the name in one step: requests
before it end on the old weights, requests after it begin on the new ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from motet.adapters.roots import adapter_name_is_valid, confine
from motet.core.errors import AdapterError, MotetError
from motet.core.messages import AdapterInfo
from motet.server.engine_client import EngineClient
from motet.server.errors import bad_request

_MAX_REPLAYS_AT_ONCE = 8

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of a named adapter."""

    name: str
    path: Path  # resolved
    info: AdapterInfo
    loaded_at: int  # Unix time [s]


class AdapterRegistry:
    """Adapters by name, each with one reference on its digest in the engine.

    Args:
        client: the engine; after a restart it has this registry load everything again.
        base_name: the name of the base model, which no adapter may have.
        roots: directories below which `load` may read.
    """

    def __init__(self, client: EngineClient, base_name: str, roots: Sequence[Path]) -> None:
        self.base_name = base_name
        self._client = client
        self._roots = tuple(roots)
        self._adapters: dict[str, Adapter] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        client.on_restart = self._replay

    def adapters(self) -> list[Adapter]:
        """All adapters in the order of their first load."""
        return list(self._adapters.values())

    def names_of(self, digest: str) -> list[str]:
        """The names that mean this digest now."""
        return [each.name for each in self._adapters.values() if each.info.digest == digest]

    def resolve(self, model: str) -> Adapter | None:
        """The adapter that `model` names, or None for the base model.

        `model` is the base's name, an adapter's name, or `base:adapter`.

        Raises:
            MotetError: 404 `model_not_found`.
        """
        if model == self.base_name:
            return None
        adapter = self._adapters.get(model.removeprefix(f"{self.base_name}:"))
        if adapter is None:
            raise MotetError(
                f"The model {model!r} does not exist. GET /v1/models lists those that do.",
                code="model_not_found",
                param="model",
            )
        return adapter

    def label_of(self, model: str) -> str:
        """The one name of what `model` names, however it was spelt. Raises as `resolve`."""
        adapter = self.resolve(model)
        return self.base_name if adapter is None else adapter.name

    async def load(self, name: str, path: str, *, load_inplace: bool = False) -> Adapter:
        """Load an adapter from below the allowed roots, or replace it in place.

        Raises:
            AdapterError: the path is not allowed or the engine refuses the adapter; an older
                version under this name goes on serving.
            MotetError: the name is not allowed or taken, or the engine is not ready.
        """
        return await self._load(name, path, self._roots, load_inplace=load_inplace)

    async def load_trusted(self, name: str, path: Path) -> Adapter:
        """Load an adapter that the operator gave at start, from anywhere. Raises as `load`."""
        return await self._load(name, str(path.absolute()), (path.absolute(),), load_inplace=False)

    async def unload(self, name: str) -> None:
        """Forget a name. Its running requests go on; the engine waits for them.

        Raises:
            MotetError: 404 if there is no such adapter, or the engine is not ready.
        """
        async with self._lock(name):
            self._client.require_ready()
            adapter = self._adapters.pop(name, None)
            if adapter is None:
                raise MotetError(
                    f"The LoRA adapter {name!r} cannot be found. GET /v1/models lists those that "
                    "are loaded.",
                    code="adapter_not_found",
                    param="lora_name",
                )
            self._client.release_adapter(adapter.info.digest)

    async def _load(
        self, name: str, path: str, roots: Sequence[Path], *, load_inplace: bool
    ) -> Adapter:
        self._require_usable_name(name)
        async with self._lock(name):
            self._client.require_ready()
            previous = self._adapters.get(name)
            if previous is not None and not load_inplace:
                raise bad_request(
                    f"The LoRA adapter {name!r} has already been loaded. If you want to load the "
                    "adapter in place, set 'load_inplace' to true.",
                    "lora_name",
                    code="adapter_already_loaded",
                )
            resolved = confine(path, roots)
            info = await self._client.load_adapter(resolved)
            adapter = Adapter(name, resolved, info, int(time.time()))
            self._adapters[name] = adapter
            # An engine that died just now has no references to give back.
            if previous is not None and self._client.unready_reason is None:
                self._client.release_adapter(previous.info.digest)
        return adapter

    def _require_usable_name(self, name: str) -> None:
        if not adapter_name_is_valid(name):
            raise bad_request(
                f"{name!r} cannot name an adapter: use 1 to 128 letters, digits, '.', '_', '-' or "
                "'/', beginning with a letter or digit, without '..'.",
                "lora_name",
            )
        if name == self.base_name:
            raise bad_request(
                f"{name!r} is the name of the base model; choose another for the adapter.",
                "lora_name",
            )

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def _replay(self) -> None:
        """Load every adapter into a new engine. Raises MotetError if that engine dies too."""
        limit = asyncio.Semaphore(_MAX_REPLAYS_AT_ONCE)

        async def replay(name: str) -> None:
            async with limit, self._lock(name):
                await self._replay_one(name)

        async with asyncio.TaskGroup() as group:
            for name in list(self._adapters):
                group.create_task(replay(name))

    async def _replay_one(self, name: str) -> None:
        adapter = self._adapters.get(name)
        if adapter is None:
            return
        try:
            info = await self._client.load_adapter(adapter.path)
        except AdapterError as error:
            del self._adapters[name]
            _log.error("adapter dropped", adapter=name, reason=error.message)
            return
        if info.digest != adapter.info.digest:
            # Nobody asked for other weights under this name.
            del self._adapters[name]
            self._client.release_adapter(info.digest)
            _log.error("adapter dropped", adapter=name, reason="its files changed on disk")
            return
        self._adapters[name] = replace(adapter, info=info)
