"""A model's own chat template, from messages to the text that the model was trained on.

Owns: the sandbox that a template runs in, and the helpers that Hugging Face templates expect.
Does not know: tokens, requests, nor which file the template came from (`tokenizer.py`).

Templates come with a model and are code, so they run in Jinja's immutable sandbox; requests
never bring their own. The text is the same as that of transformers' `apply_chat_template`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from motet.core.errors import ModelError, MotetError
from motet.server.errors import bad_request


class _GenerationBlock(Extension):
    """`{% generation %}` marks what is trained on; when serving, its body is just text."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja source.
        special_tokens: what the template may refer to by name, such as `bos_token`.

    Attributes:
        source: as it was given.

    Raises:
        ModelError: the source is not a valid template.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._special_tokens = dict(special_tokens)
        self.source = source
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(
                f"The model's chat template does not compile: {error}. Correct chat_template.jinja "
                "or the chat_template in tokenizer_config.json."
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt that asks for the next message.

        Args:
            tools: what may be called, as OpenAI's objects, for templates that know tools.

        Raises:
            MotetError: 400, when the template refuses the messages (roles that must alternate…).
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None if tools is None else [dict(tool) for tool in tools],
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise bad_request(
                f"The model's chat template refuses these messages: {error}.", "messages"
            ) from error


def no_chat_template() -> MotetError:
    """The error of a chat request to a model that has no template."""
    return bad_request(
        "This model has no chat template, so it cannot chat. Use /v1/completions, or add a "
        "chat_template.jinja to the model's directory.",
        "messages",
    )


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no model was trained on.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
