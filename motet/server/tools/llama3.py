"""The form of Llama 3 models: an answer that is calls from its beginning, as bare JSON.

    {"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": {}}

Owns: where a call may begin, and the grammar around calls.
Does not know: what is in a call.

`<|python_tag|>` may stand before a call; as a special token it mostly has no text. Calls are
separated by `;`, or by white space alone. Once an answer has other text, the rest of it is text.
"""

from __future__ import annotations

from collections.abc import Collection

from motet.server.tools.parser import CallParser, Passage

_TAG = "<|python_tag|>"


class Llama3Form:
    """See the head of this module."""

    marks: tuple[str, ...] = ("<|start_header_id|>", '{"name": ', '"parameters": ')
    arguments_key = "parameters"
    has_tags = False
    has_one_call_a_message = True

    def parser(self, names: Collection[str], *, is_parallel: bool) -> CallParser:
        # Models that were trained on several forms mix their keys up.
        keys = ("parameters", "arguments")
        return CallParser(_LeadingGate(), names, keys, is_parallel=is_parallel)

    def grammar_rules(self, *, is_required: bool, is_parallel: bool) -> str:
        calls = 'call ("; " call)*' if is_parallel else "call"
        if is_required:
            return f"answer: {calls}\n"
        # An answer that begins like a call, or with what may be a tag, has to be a call.
        text = r"[^{\s<](.|\n)*|<([^|](.|\n)*)?"
        return f"answer: TEXT? | {calls}\nTEXT: /{text}/\n"


class _LeadingGate:
    """Lets calls begin where nothing but calls came before."""

    def __init__(self) -> None:
        self._held: list[str] = []  # white space, a separator and a tag, in this order
        self._tag = ""
        self._is_after_call = False
        self._may_separate = False  # after a call, and no separator since
        self._is_text = False

    def push(self, char: str) -> Passage:
        if self._is_text:
            return Passage(char)
        if char == "{" and self._tag in ("", _TAG):
            self._tag = ""
            return Passage(opening=self._take_held(), call=char)
        self._held.append(char)
        if self._belongs_to_form(char):
            return Passage()
        self._is_text = True
        return Passage(self._take_held())

    def pass_plain(self, text: str, begin: int) -> int:
        return len(text) if self._is_text else begin

    def resume(self, *, after_call: bool) -> None:
        self._is_after_call = self._may_separate = after_call
        self._is_text = not after_call

    def flush(self) -> str:
        held = self._take_held()
        # White space and a separator at the end belong to the call before them.
        return "" if self._is_after_call and not self._tag else held

    def _belongs_to_form(self, char: str) -> bool:
        if char.isspace():
            return self._tag in ("", _TAG)
        if char == ";" and self._may_separate and not self._tag:
            self._may_separate = False
            return True
        self._tag += char
        return _TAG.startswith(self._tag)

    def _take_held(self) -> str:
        held, self._held = "".join(self._held), []
        return held
