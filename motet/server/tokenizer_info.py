"""What a client needs to tokenize as this server does: the answer of GET /tokenizer_info.

Owns: which parts of a tokenizer's configuration are told.
Does not know: files (`tokenizer.py` reads them), HTTP.

Evaluation harnesses read the special tokens and the chat template from it, under the keys of
`tokenizer_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

_ALWAYS_TOLD = ("bos_token", "eos_token", "unk_token", "pad_token")
_DEFAULT_CLASS = "PreTrainedTokenizerFast"
_SIDES = ("padding_side", "truncation_side")


def tokenizer_info(
    config: Mapping[str, Any],
    special_tokens: Mapping[str, str],
    chat_template: str | None,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """The parts of `tokenizer_config.json` that say how to tokenize.

    Of its other keys only switches are told: a text may be a path on this machine.

    Args:
        config: that file's content.
        special_tokens: special tokens by name.
        chat_template: the template's source, wherever it came from.
        tokenizer: knows the tokens that were added to the vocabulary.
    """
    switches = {name: value for name, value in config.items() if isinstance(value, bool)}
    sides = {name: config[name] for name in _SIDES if config.get(name) in ("left", "right")}
    declared_class = config.get("tokenizer_class")
    return {
        **switches,
        **sides,
        **dict.fromkeys(_ALWAYS_TOLD),
        **special_tokens,
        "tokenizer_class": declared_class if isinstance(declared_class, str) else _DEFAULT_CLASS,
        "chat_template": chat_template,
        "added_tokens_decoder": {
            str(token_id): {
                "content": token.content,
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            }
            for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
    }
