"""One request, ready to be sent.

Owns: what it consists of.
Does not know: where it comes from (`supply.py`), and what becomes of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request.

    Attributes:
        path: of the endpoint.
        body: JSON.
        headers: with the key.
        group: the row that it is counted in.
        tenant_group: likewise, if there are tenants.
    """

    path: str
    body: bytes
    headers: Mapping[str, str] = field(repr=False)
    group: str
    tenant_group: str | None = None
