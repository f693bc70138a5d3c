"""Text to token ids and back, from the files in a model's directory.

Owns: encoding, the chat prompt, the end-of-text ids, and decoding as tokens arrive.
Does not know: requests, stop strings. Uses `tokenizers` alone: `transformers` may import torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from motet.core.errors import ModelError
from motet.server.chat_template import PLAIN_CHAT, ChatOptions, ChatTemplate, no_chat_template
from motet.server.token_pieces import TokenPieces
from motet.server.tokenizer_info import tokenizer_info
from motet.server.tools.visible_tags import with_visible_tags

# The names that templates may use, as in transformers.
_SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class TextTokenizer:
    """The tokenizer of one model. Thread-safe: nothing changes after construction.

    Args:
        tool_template: for chats with tools, where the model has a template of its own for them.

    Attributes:
        info: what a client needs to tokenize alike, as JSON.
        pieces: the bytes of each single token.
        tool_template_source: the template that chats with tools are written by; empty if there
            is none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | None,
        eos_token_ids: Sequence[int],
        info: Mapping[str, Any],
        tool_template: ChatTemplate | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self.pieces = TokenPieces(tokenizer)
        self._tool_template = tool_template or chat_template
        self.tool_template_source = self._tool_template.source if self._tool_template else ""
        self.eos_token_ids = tuple(eos_token_ids)
        self.info = info

    @classmethod
    def from_dir(cls, model_dir: Path) -> TextTokenizer:
        """Read `tokenizer.json` and its companions.

        Raises:
            ModelError: there is no readable `tokenizer.json`, or a companion is not JSON.
        """
        file = model_dir / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                f"There is no tokenizer.json in {model_dir}. Motet needs that file; transformers "
                "writes it with AutoTokenizer.from_pretrained(...).save_pretrained(directory)."
            )
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{file} cannot be read: {error}.") from error
        tokenizer = with_visible_tags(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = _read_json(model_dir / "tokenizer_config.json")
        special_tokens = _special_tokens(model_dir, config)
        sources = _chat_template_sources(model_dir, config)
        templates = {name: ChatTemplate(each, special_tokens) for name, each in sources.items()}
        return cls(
            tokenizer,
            templates.get("default"),
            _eos_token_ids(model_dir, tokenizer, special_tokens),
            tokenizer_info(config, special_tokens, sources.get("default"), tokenizer),
            templates.get("tool_use"),
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a prompt, by default with the special tokens that tokenizer.json adds.

        `add_bos_token` in tokenizer_config.json is for tokenizers without that file; transformers
        ignores it here too.
        """
        return self._encode(text, add_special_tokens=add_special_tokens)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        options: ChatOptions = PLAIN_CHAT,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of the prompt that asks for the next message. Raises MotetError (400)."""
        template = self._chat_template if tools is None else self._tool_template
        if template is None:
            raise no_chat_template()
        text = template.render(messages, options, tools=tools)
        return self._encode(text, add_special_tokens=options.add_special_tokens)

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # `encode` would keep Python's lock, and so the event loop, for as long as it takes.
        (encoding,) = self._tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        ids: list[int] = encoding.ids
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids, by default without special tokens."""
        # A batch of one does not keep Python's lock either.
        (text,) = self._tokenizer.decode_batch(
            [list(token_ids)], skip_special_tokens=skip_special_tokens
        )
        return str(text)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each token as it is written in the vocabulary; empty for an id that has no token."""
        return [self._tokenizer.id_to_token(token_id) or "" for token_id in token_ids]

    def decoder(self, *, skip_special_tokens: bool = True) -> IncrementalDecoder:
        """A decoder for one answer."""
        return IncrementalDecoder(self._tokenizer, skip_special_tokens=skip_special_tokens)


class IncrementalDecoder:
    """Text as tokens arrive. All pieces together are the text of all tokens.

    A character may take several tokens; its text comes with the last of them.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skips_special_tokens = skip_special_tokens
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._spoken_ids: list[int] = []  # tokens of the last piece: the context of the next
        self._pending_ids: list[int] = []  # tokens whose text has not come yet

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty within a character."""
        self._pending_ids.append(token_id)
        try:
            piece = self._stream.step(self._tokenizer, token_id)
        except Exception:  # the library's: the text before changed with this token
            return self.flush()
        if piece is None:
            return ""
        self._spoken_ids, self._pending_ids = self._pending_ids, []
        return str(piece)

    def flush(self) -> str:
        """The text of what is pending: a character cut off in its middle shows as U+FFFD."""
        before = self._decode(self._spoken_ids)
        now = self._decode(self._spoken_ids + self._pending_ids)
        piece = now[len(before) :]
        self._spoken_ids, self._pending_ids = self._pending_ids or self._spoken_ids, []
        self._stream = DecodeStream(
            list(self._spoken_ids), skip_special_tokens=self._skips_special_tokens
        )
        return piece

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=self._skips_special_tokens
        )
        return text


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file} should hold a JSON object.")
    return value


def _special_tokens(model_dir: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name. An older layout keeps them in a file of their own."""
    merged = {**_read_json(model_dir / "special_tokens_map.json"), **config}
    tokens: dict[str, str] = {}
    for name in _SPECIAL_TOKENS:
        value = merged.get(name)
        if isinstance(value, dict):  # a token with its matching rules
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _chat_template_sources(model_dir: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name, as transformers names them: "default", and maybe "tool_use"."""
    file = model_dir / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text("utf-8")}
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {each["name"]: each["template"] for each in template}
        return {name: named[name] for name in ("default", "tool_use") if name in named}
    return {"default": template} if isinstance(template, str) else {}


def _eos_token_ids(
    model_dir: Path, tokenizer: Tokenizer, special_tokens: Mapping[str, str]
) -> list[int]:
    """Where generation ends: the generation config's ids (or the model's), and the tokenizer's."""
    generation = _read_json(model_dir / "generation_config.json")
    declared = generation.get(
        "eos_token_id", _read_json(model_dir / "config.json").get("eos_token_id")
    )
    ids = declared if isinstance(declared, list) else [declared]
    if eos := special_tokens.get("eos_token"):
        ids = [*ids, tokenizer.token_to_id(eos)]
    return sorted({each for each in ids if each is not None})
