"""From what a request calls a model to the adapter that is meant.

Owns: how a model may be spelt, who may see it, and when the adapter directory is asked for a name.
Does not know: whether an adapter is loaded (`registry.py`).
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from motet.adapters.roots import adapter_name_is_valid
from motet.core.errors import MotetError
from motet.server.adapter import Adapter, SourceType, Version, found
from motet.server.adapter_dir import AdapterDirectory
from motet.server.errors import bad_request
from motet.server.principal import Principal
from motet.server.records import Records

# The '@' is in no adapter's name.
_VERSION_ID = re.compile(r"(?P<name>.+)@v?(?P<number>[1-9][0-9]{0,8})")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a request names: an adapter, and perhaps one version of it."""

    name: str
    number: int | None


class AdapterNames:
    """The names of a server's models: the base model's, those given, and those found.

    Args:
        base_name: the name of the base model, which no adapter may have.
        directory: whose folders name adapters, if there is one.
    """

    def __init__(
        self, base_name: str, records: Records, directory: AdapterDirectory | None
    ) -> None:
        self.base_name = base_name
        self._records = records
        self._catalogue = records.catalogue
        self._directory = directory

    async def name_directory(self) -> None:
        """Name every adapter that lies in the directory; a name that is taken stays as it is.

        Names that were found in the directory of an earlier start are not there any more.
        """
        for adapter in self._catalogue.all():
            if not self._lies_here(adapter):
                self._catalogue.remove(adapter.name)
        if self._directory is None:
            return
        now = int(time.time())
        for name, path in await asyncio.to_thread(self._directory.scan):
            if name == self.base_name:
                reason = "its folder's name is that of the base model"
                _log.warning("adapter not named", path=str(path), reason=reason)
            elif self._catalogue.get(name) is None and name not in self._records.forgotten:
                self._catalogue.put(found(name, path, now))

    async def find(
        self, model: str, principal: Principal, param: str = "model"
    ) -> Adapter | Version | None:
        """What `model` names, to someone who may see it; None is the base model.

        `model` is the base's name, an adapter's name (NAME), one of its versions (NAME@3 or
        NAME@v3), or `base:` and either. An adapter that came into the directory since the start
        is found here.

        Args:
            param: the field that named it, for the error.

        Raises:
            MotetError: 404 `model_not_found`.
        """
        if model == self.base_name:
            return None
        spelling = self.parse(model)
        if principal.may_use(spelling.name):
            await self.look_up(spelling.name)
            if (meant := self._meant(spelling)) is not None:
                return meant
        raise no_such_model(model, param)

    def version(self, version_id: str) -> Version | None:
        """The version of an id, also one that is draining; None if it is gone."""
        spelling = self.parse(version_id)
        if spelling.number is None:
            return None
        return self._catalogue.version(spelling.name, spelling.number)

    def parse(self, model: str) -> Spelling:
        """The parts of a model's spelling, whether or not there is such a model."""
        name = model.removeprefix(f"{self.base_name}:")
        match = _VERSION_ID.fullmatch(name)
        return Spelling(match["name"], int(match["number"])) if match else Spelling(name, None)

    async def look_up(self, name: str) -> None:
        """Have a name found in the directory, if it lies there and is not known yet."""
        is_known = self._catalogue.get(name) is not None
        if is_known or self._directory is None or name in self._records.forgotten:
            return
        if name == self.base_name or (path := await self._directory.find(name)) is None:
            return
        # Someone may have given it or forgotten it meanwhile.
        if self._catalogue.get(name) is None and name not in self._records.forgotten:
            self._catalogue.put(found(name, path, int(time.time())))

    async def lies_in_directory(self, name: str) -> bool:
        """Whether the name would be found again if it were no longer known."""
        return self._directory is not None and await self._directory.holds(name)

    def known(self, name: str) -> Adapter | None:
        """What is known under a name, whether or not requests may use it; None if nothing is."""
        return self._catalogue.get(name)

    def adapter(self, name: str, param: str) -> Adapter:
        """The adapter of this name, as an admin sees it.

        Args:
            param: the field that named it, for the error.

        Raises:
            MotetError: 404 `adapter_not_found`.
        """
        adapter = self._catalogue.get(name)
        if adapter is None or adapter.is_gone:
            raise MotetError(
                f"The LoRA adapter {name!r} cannot be found. GET /v1/models lists those that "
                "there are.",
                code="adapter_not_found",
                param=param,
            )
        return adapter

    def require_usable(self, name: str, param: str) -> None:
        """Raises MotetError (400) unless an adapter may have this name."""
        if not adapter_name_is_valid(name):
            raise bad_request(
                f"{name!r} cannot name an adapter: use 1 to 128 letters, digits, '.', '_', '-' or "
                "'/', beginning with a letter or digit, without '..'.",
                param,
            )
        if name == self.base_name:
            raise bad_request(
                f"{name!r} is the name of the base model; choose another for the adapter.", param
            )

    def _lies_here(self, adapter: Adapter) -> bool:
        """Whether somebody asked for one of its versions, or it was found in this directory."""
        return any(
            version.source.type is not SourceType.DIRECTORY
            or (self._directory and Path(version.source.uri).is_relative_to(self._directory.path))
            for version in adapter.versions.values()
        )

    def _meant(self, spelling: Spelling) -> Adapter | Version | None:
        adapter = self._catalogue.get(spelling.name)
        if adapter is None:
            return None
        if spelling.number is None:
            return adapter if adapter.alias is not None else None
        version = adapter.versions.get(spelling.number)
        if version is None or version.is_draining:
            return None
        # What has never been read can be used only where the name means it.
        was_read = version.digest is not None
        return version if was_read or version.number in adapter.targets else None


def no_such_model(model: str, param: str = "model") -> MotetError:
    """The answer for a model that does not exist, or that whoever asks may not see."""
    return MotetError(
        f"The model {model!r} does not exist. GET /v1/models lists those that do.",
        code="model_not_found",
        param=param,
    )
