"""Adapters from S3, and from whatever speaks its protocol.

Owns: asking for objects, with the credentials and endpoint of the AWS environment variables.
Does not know: which buckets are allowed, and limits (`sources.py`, `downloads.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from motet.adapters.router_config import MAX_ROUTER_CONFIG_BYTES, ROUTER_CONFIG_NAME
from motet.core.errors import AdapterError
from motet.server.adapter import Source
from motet.server.source_files import ADAPTER_FILES, files_of_set

_CHUNK_BYTES = 8 << 20
_CLIENT = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 2}}


class S3Files:
    """Objects below a prefix. S3 has no revisions, so their entity tags are one."""

    def __init__(self) -> None:
        self._fs: Any = None

    def pinned(self, source: Source) -> Source:
        """The source with a digest of its objects' tags and sizes."""
        with _s3_errors(source):
            infos = [self._files().info(_key(source, file)) for file in self._names(source)]
        tags = [(info["ETag"], info["size"]) for info in infos]
        return replace(source, revision=hashlib.sha256(repr(tags).encode()).hexdigest()[:40])

    def chunks(self, source: Source, file: str) -> Iterator[bytes]:
        """An object."""
        with (
            _s3_errors(source),
            self._files().open(_key(source, file), "rb", block_size=_CHUNK_BYTES) as content,
        ):
            while chunk := content.read(_CHUNK_BYTES):
                yield chunk

    def _names(self, source: Source) -> Sequence[str]:
        """An adapter's files, or a routed set's where there is no adapter."""
        try:
            self._files().info(_key(source, ADAPTER_FILES[0]))
        except FileNotFoundError:
            key = _key(source, ROUTER_CONFIG_NAME)
            return files_of_set(self._files().cat_file(key, end=MAX_ROUTER_CONFIG_BYTES))
        return ADAPTER_FILES

    def _files(self) -> Any:
        if self._fs is None:
            from s3fs import S3FileSystem

            # Not a shared instance: it would remember what was listed long ago.
            self._fs = S3FileSystem(
                skip_instance_cache=True, use_listings_cache=False, config_kwargs=_CLIENT
            )
        return self._fs


def _key(source: Source, file: str) -> str:
    return f"{source.uri.rstrip('/')}/{file}"


@contextmanager
def _s3_errors(source: Source) -> Iterator[None]:
    try:
        yield
    except (AdapterError, GeneratorExit):
        raise
    except ImportError as error:
        raise AdapterError(
            "Adapters from S3 need an extra that is not installed: pip install 'motet[s3]'.",
            code="source_unavailable",
        ) from error
    except FileNotFoundError as error:
        raise AdapterError(
            f"There are no {' and '.join(ADAPTER_FILES)} below {source.uri}, nor all files of a "
            "routed set.",
            code="adapter_not_found",
        ) from error
    except Exception as error:  # whatever the client has for a network that is not there
        raise AdapterError(
            f"{source.uri} cannot be read ({type(error).__name__}). Check this server's network "
            "and its AWS credentials.",
            code="source_unavailable",
        ) from error
