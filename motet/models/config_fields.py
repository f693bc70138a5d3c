"""Typed access to the fields of a Hugging Face `config.json`.

Owns: the checks of a field's presence and type, and the wording of their errors.
Does not know: which fields there are, nor what they mean.
"""

from collections.abc import Mapping
from typing import Any

from motet.core.errors import ModelError


class ConfigFields:
    """A config as a mapping. A null counts as absent, except to `has`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def has(self, name: str) -> bool:
        """Whether the field is there, were it with a null."""
        return name in self._values

    def get(self, name: str) -> Any:
        """The value as it is, or None where it is absent or null."""
        return self._values.get(name)

    def integer(self, name: str, default: int | None = None, minimum: int = 1) -> int:
        """An integer of at least `minimum`; required where there is no default.

        Raises:
            ModelError: it is missing or not such a number.
        """
        value = self.get(name)
        if value is None:
            if default is None:
                raise ModelError(f"config.json has no {name!r}, which this model must state.")
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise wrong_value(name, value, f"an integer of at least {minimum}")
        return value

    def positive_float(self, name: str, default: float) -> float:
        """A number above zero.

        Raises:
            ModelError: it is not such a number.
        """
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise wrong_value(name, value, "a positive number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            ModelError: it is neither.
        """
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise wrong_value(name, value, "true or false")
        return value

    def list_of(self, name: str, kinds: type | tuple[type, ...], length: int) -> list[Any] | None:
        """A list with one entry for each of `length` layers, or None where it is absent.

        Raises:
            ModelError: it is not a list of that length and of those types.
        """
        value = self.get(name)
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != length
            or not all(isinstance(entry, kinds) for entry in value)
        ):
            raise wrong_value(name, value, f"a list with one entry for each of {length} layers")
        return value


def wrong_value(name: str, value: Any, expected: str) -> ModelError:
    """The error for a field with a value that cannot be."""
    return ModelError(f"config.json has {name} = {value!r}, expected {expected}.")


def unsupported_value(name: str, value: Any, expected: str) -> ModelError:
    """The error for a field that asks for something that the decoder does not do."""
    return ModelError(
        f"config.json has {name} = {value!r}, which this decoder does not do; expected {expected}. "
        "Serve a checkpoint without it.",
        code="unsupported_model_option",
    )
