"""Tags of calls that have text, whatever a model's tokenizer says.

Owns: telling a tokenizer that its tokens of such tags are not special.
Does not know: what stands between tags.

The tokenizers of some models mark these tokens as special. Special tokens are left out of text, and
in a text without tags no calls are found.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer

from motet.server.tools.hermes import CLOSE_TAG, OPEN_TAG

_TAGS = frozenset({OPEN_TAG, CLOSE_TAG})


def with_visible_tags(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, but that it decodes tags to their text. Its token ids stay."""
    added = tokenizer.get_added_tokens_decoder().values()
    if not any(token.special and token.content in _TAGS for token in added):
        return tokenizer
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in _TAGS
    return Tokenizer.from_str(json.dumps(state))
