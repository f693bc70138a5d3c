"""Who shares cached prefixes with whom.

Owns: the name under which the engine keeps the prefixes of a request.
Does not know: how a tenant is found out (`auth.py`).
"""

from __future__ import annotations

import hashlib

import orjson


def prefix_scope(tenant: str | None, salt: str | None) -> str | None:
    """The scope of a request: requests share prefixes if and only if theirs are the same.

    Without a salt it is the tenant. With one it is a digest of both, so that nobody gets into
    the scope of another tenant, whatever salt they choose, and no salt is passed on.
    """
    if salt is None:
        return tenant
    return hashlib.sha256(orjson.dumps([tenant, salt])).hexdigest()
