"""From what a request calls a model to the adapter that is meant.

Owns: how a model may be spelt, and when the adapter directory is asked for a name.
Does not know: whether an adapter is loaded (`registry.py`).
"""

from __future__ import annotations

import asyncio
import time

import structlog

from motet.adapters.roots import adapter_name_is_valid
from motet.core.errors import MotetError
from motet.server.adapter_dir import AdapterDirectory
from motet.server.catalogue import Adapter, Catalogue
from motet.server.errors import bad_request

_log = structlog.get_logger()


class AdapterNames:
    """The names of a server's models: the base model's, those given, and those found.

    Args:
        base_name: the name of the base model, which no adapter may have.
        directory: whose folders name adapters, if there is one.
    """

    def __init__(
        self, base_name: str, catalogue: Catalogue, directory: AdapterDirectory | None
    ) -> None:
        self.base_name = base_name
        self._catalogue = catalogue
        self._directory = directory
        self._forgotten: set[str] = set()  # names that lie in the directory and must not come back

    async def name_directory(self) -> None:
        """Name every adapter that lies in the directory; a name that is taken stays as it is."""
        if self._directory is None:
            return
        now = int(time.time())
        for name, path in await asyncio.to_thread(self._directory.scan):
            if name == self.base_name:
                reason = "its folder's name is that of the base model"
                _log.warning("adapter not named", path=str(path), reason=reason)
            elif name not in self._catalogue:
                self._catalogue.put(Adapter(name, path, now))

    async def find(self, model: str) -> str:
        """The one name of what `model` names, however it was spelt.

        `model` is the base's name, an adapter's name, or `base:adapter`. An adapter that came
        into the directory since the start is found here.

        Raises:
            MotetError: 404 `model_not_found`.
        """
        if model == self.base_name:
            return model
        name = self._adapter_name(model)
        if not await self._is_named(name):
            raise _no_such_model(model)
        return name

    def resolve(self, model: str) -> Adapter | None:
        """The adapter that `model` names, or None for the base model. Raises as `find`."""
        if model == self.base_name:
            return None
        adapter = self._catalogue.get(self._adapter_name(model))
        if adapter is None:
            raise _no_such_model(model)
        return adapter

    async def look_up(self, name: str, param: str) -> None:
        """Have an adapter's name found, as `find` does. Raises as `adapter`."""
        if not await self._is_named(name):
            raise _no_such_adapter(name, param)

    def adapter(self, name: str, param: str) -> Adapter:
        """The adapter of this name.

        Args:
            param: the field that named it, for the error.

        Raises:
            MotetError: 404 `adapter_not_found`.
        """
        adapter = self._catalogue.get(name)
        if adapter is None:
            raise _no_such_adapter(name, param)
        return adapter

    def require_usable(self, name: str) -> None:
        """Raises MotetError (400) unless an adapter may have this name."""
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

    def give(self, adapter: Adapter) -> None:
        """Give a name its meaning, whether or not it was forgotten before."""
        self._catalogue.put(adapter)
        self._forgotten.discard(adapter.name)

    async def forget(self, name: str, param: str) -> Adapter:
        """Forget a name, and what it meant; if it lies in the directory, it is not found again.

        Raises as `adapter`.
        """
        lies_there = self._directory is not None and await self._directory.holds(name)
        adapter = self.adapter(name, param)
        self._catalogue.remove(name)
        if lies_there:
            self._forgotten.add(name)
        return adapter

    def _adapter_name(self, model: str) -> str:
        return model.removeprefix(f"{self.base_name}:")

    async def _is_named(self, name: str) -> bool:
        if name in self._catalogue:
            return True
        if self._directory is None or name in self._forgotten or name == self.base_name:
            return False
        path = await self._directory.find(name)
        # Someone may have given it or forgotten it meanwhile.
        if path is not None and name not in self._catalogue and name not in self._forgotten:
            self._catalogue.put(Adapter(name, path, int(time.time())))
        return name in self._catalogue


def _no_such_model(model: str) -> MotetError:
    return MotetError(
        f"The model {model!r} does not exist. GET /v1/models lists those that do.",
        code="model_not_found",
        param="model",
    )


def _no_such_adapter(name: str, param: str) -> MotetError:
    return MotetError(
        f"The LoRA adapter {name!r} cannot be found. GET /v1/models lists those that there are.",
        code="adapter_not_found",
        param=param,
    )
