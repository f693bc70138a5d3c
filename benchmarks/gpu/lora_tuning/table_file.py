"""The file that `motet.kernels.lora_triton_table` is.

Owns: its text.
Does not know: how the sizes were found.
"""

from collections.abc import Mapping, Sequence

from motet.kernels.lora_triton_sizes import ExpandSizes, Shape, ShrinkSizes

_HEADER = '''"""Block sizes of the Triton LoRA kernels, by class of shape. Plain data.

Owns: the two tables that `lora_triton_sizes.py` reads, where keys and values are explained.
Does not know: anything.

Source: {source}
Written anew by `python -m benchmarks.gpu.tune_lora`.
"""

Key = tuple[bool, int, int, int]
"""by_segment, and the least max_rank, pairs and width of the class."""
'''


def render_table(
    source: str, shrink: Mapping[Shape, ShrinkSizes], expand: Mapping[Shape, ExpandSizes]
) -> str:
    """Python text of the module, formatted as the repository's formatter leaves it.

    Args:
        source: one line on where the sizes are from.
    """
    return "\n".join(
        [
            _HEADER.format(source=source),
            *_dictionary("SHRINK", ShrinkSizes._fields, shrink),
            "",
            *_dictionary("EXPAND", ExpandSizes._fields, expand),
            "",
        ]
    )


def _dictionary(
    name: str, fields: Sequence[str], sizes: Mapping[Shape, tuple[int, ...]]
) -> list[str]:
    value_type = ", ".join(["int"] * len(fields))
    return [
        f"# {', '.join(fields)}",
        f"{name}: dict[Key, tuple[{value_type}]] = {{",
        *(f"    {tuple(least)}: {tuple(value)}," for least, value in sizes.items()),
        "}",
    ]
