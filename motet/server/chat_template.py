"""A model's own chat template, from messages to the text that the model was trained on.

Owns: the sandbox that a template runs in, and the helpers that Hugging Face templates expect.
Does not know: tokens, requests, nor which file the template came from (`tokenizer.py`).

Templates come with a model and are code, so they run in Jinja's immutable sandbox; requests
never bring their own. The text is the same as that of transformers' `apply_chat_template`.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from motet.core.errors import ModelError, MotetError
from motet.server.errors import bad_request

# Bodies are of 4 MiB; a template that writes them out several times over still fits.
MAX_PROMPT_CHARS = 16 << 20


class _GenerationBlock(Extension):
    """`{% generation %}` marks what is trained on; when serving, its body is just text."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """How a conversation becomes a prompt.

    Attributes:
        add_generation_prompt: end with what begins the assistant's next message.
        continue_final_message: end within the last message, so that the answer goes on with it;
            only without a generation prompt.
        add_special_tokens: add the tokenizer's special tokens to those that the template writes.
        template_kwargs: what else the template may read; never one of the names above, nor
            `messages`, `tools`, `documents` or a special token.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


PLAIN_CHAT = ChatOptions()


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
        options: ChatOptions = PLAIN_CHAT,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt that asks for the next message, or for the rest of the last one.

        Args:
            tools: what may be called, as OpenAI's objects, for templates that know tools.

        Raises:
            MotetError: 400, when the template refuses the messages (roles that must alternate…).
        """
        if options.continue_final_message:
            return self._up_to_the_end_of_the_last(messages, options, tools)
        return self._render(messages, options, tools)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: ChatOptions,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> str:
        pieces = self._template.generate(
            **options.template_kwargs,
            messages=[dict(message) for message in messages],
            tools=None if tools is None else [dict(tool) for tool in tools],
            documents=None,
            add_generation_prompt=options.add_generation_prompt,
            **self._special_tokens,
        )
        try:
            return _joined(pieces)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise bad_request(
                f"The model's chat template refuses these messages: {error}.", "messages"
            ) from error

    def _up_to_the_end_of_the_last(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: ChatOptions,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> str:
        """Without what the template writes after the text of the last message.

        A mark that no client can know stands at the end of that text, and the prompt ends where
        it came out. If the template trims texts, the space before the mark goes too: with it
        gone, so is the mark's own trailing space.
        """
        *earlier, last = messages
        mark = f"<{secrets.token_hex(16)}> "
        marked = [*earlier, {**last, "content": (last.get("content") or "") + mark}]
        before, found, after = self._render(marked, options, tools).rpartition(mark.rstrip())
        if not found:
            raise bad_request(
                "The model's chat template does not write out the last message, so it cannot be "
                "continued.",
                "continue_final_message",
            )
        return before if after.startswith(" ") else before.rstrip()


def _joined(pieces: Iterable[str]) -> str:
    """The pieces together. Raises ValueError for more than any body could ask for."""
    text = io.StringIO()
    for piece in pieces:
        text.write(piece)
        if text.tell() > MAX_PROMPT_CHARS:
            raise ValueError(f"it writes more than {MAX_PROMPT_CHARS} characters")
    return text.getvalue()


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
