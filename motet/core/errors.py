"""The errors that cross a boundary between parts of Motet.

Owns: the exception types, and the short machine-readable `code` of each.
Does not know: HTTP status codes (`server/errors.py` maps to those).
"""


class MotetError(Exception):
    """An error with a message for the user and a stable code for programs.

    Args:
        message: what was wrong, what was expected, and what to do.
        code: a stable identifier, in the style of OpenAI's error codes.
        param: the request field or file field at fault, if there is one.
    """

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class AdapterError(MotetError):
    """An adapter checkpoint was refused. Nothing of it has become visible."""

    def __init__(self, message: str, *, code: str = "invalid_adapter") -> None:
        super().__init__(message, code=code, param="lora_path")


class ModelError(MotetError):
    """A base model cannot be loaded or is of an unsupported architecture."""

    def __init__(self, message: str, *, code: str = "invalid_model") -> None:
        super().__init__(message, code=code, param="model")


class ConfigError(MotetError):
    """Options that contradict each other or this machine."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, code="invalid_config", param=param)
