"""Adapters from the Hugging Face Hub.

Owns: asking the Hub for a revision and for files.
Does not know: which repositories are allowed, and limits (`sources.py`, `downloads.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from motet.core.errors import AdapterError
from motet.server.adapter import Source

_TIMEOUT_S = 30.0  # for each answer, and for each piece of a file
_CHUNK_BYTES = 1 << 20


class HubFiles:
    """Repositories of the Hub, read with the server's own token, if it has one."""

    def pinned(self, source: Source) -> Source:
        """The full commit that a revision is now; main, if there is none."""
        from huggingface_hub import HfApi

        with _hub_errors(source):
            info = HfApi().model_info(source.uri, revision=source.revision, timeout=_TIMEOUT_S)
        return replace(source, revision=info.sha)

    def chunks(self, source: Source, file: str) -> Iterator[bytes]:
        """A file of a commit."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        url = hf_hub_url(source.uri, file, revision=source.revision)
        with (
            _hub_errors(source),
            get_session().stream(
                "GET", url, headers=build_hf_headers(), timeout=_TIMEOUT_S, follow_redirects=True
            ) as answer,
        ):
            hf_raise_for_status(answer)
            yield from answer.iter_bytes(_CHUNK_BYTES)


@contextmanager
def _hub_errors(source: Source) -> Iterator[None]:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{source.uri} at {source.revision or 'main'}"
    try:
        yield
    except (AdapterError, GeneratorExit):
        raise
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise AdapterError(
            f"The Hub has no adapter {where}: the repository, the revision, or "
            "adapter_config.json and adapter_model.safetensors in it are missing (or files of a "
            "routed set), or this server's token may not read them.",
            code="adapter_not_found",
        ) from error
    except Exception as error:  # whatever the HTTP client has for a network that is not there
        raise AdapterError(
            f"The Hub does not answer for {where} ({type(error).__name__}). Check this server's "
            "network, or copy the adapter to the server and load it from there.",
            code="source_unavailable",
        ) from error
