"""Which served model is asked for what a workload calls an adapter.

Owns: the rule.
Does not know: where either list of names is from.
"""

from collections.abc import Sequence


def model_names(
    adapters: Sequence[str], served: Sequence[str], base: str, template: str | None
) -> dict[str | None, str]:
    """The model for each adapter of a workload, and the base model for None.

    An adapter that is served under its own name is that one. For the others, a template makes a
    name; without one they are the served adapters, in turn.

    Args:
        adapters: of the workload, in the order in which they first appear.
        served: names that the server lists, with or without the base model's.
        base: the base model's name.
        template: a model's name in which `{index}` is the adapter's place in `adapters`, from 0 on,
            and `{name}` its name.

    Raises:
        ValueError: there is no name for an adapter.
    """
    known = set(served)
    others = [name for name in served if name != base]
    names: dict[str | None, str] = {None: base}
    for index, adapter in enumerate(adapters):
        if adapter in known:
            names[adapter] = adapter
        elif template is not None:
            names[adapter] = template.replace("{index}", str(index)).replace("{name}", adapter)
        elif others:
            names[adapter] = others[index % len(others)]
        else:
            raise ValueError(
                f"The workload asks for {len(adapters)} adapters, such as {adapters[0]!r}, and the "
                f"server lists none beside {base!r}. Serve some, or give a template of their "
                "names, such as 'adapter-{index}'."
            )
    return names
