"""What a row of a group is called."""

from motet.bench.groups import GroupRow


def adapter_name(row: GroupRow) -> str:
    """An adapter's own name, or what stands for it."""
    return _name(row, unnamed="(base model)", plural="adapters")


def tenant_name(row: GroupRow) -> str:
    """A tenant's own name, or what stands for it."""
    return _name(row, unnamed="(no tenant)", plural="tenants")


def _name(row: GroupRow, unnamed: str, plural: str) -> str:
    if row.kind == "rest":
        return f"({row.num_members:,} other {plural})"
    return unnamed if row.name is None else row.name
