"""The form of Hermes and Qwen models: calls in tags, anywhere in the text.

    <tool_call>
    {"name": "f", "arguments": {"x": 1}}
    </tool_call>

Owns: the tags: where they may stand, and the grammar around a call.
Does not know: what is between them.

The closing tag may lack: some models end their answer, or begin the next call, without it. White
space next to a call belongs to the form, unless more content follows it.
"""

from __future__ import annotations

from collections.abc import Collection

from motet.server.tools.parser import CallParser, Passage

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"
_CLOSING = "</"  # what is this may still be a closing tag, but no opening one


class HermesForm:
    """See the head of this module."""

    # Other models have other things than JSON in the same tags.
    marks: tuple[str, ...] = (OPEN_TAG, '"arguments"')
    arguments_key = "arguments"
    has_tags = True
    has_one_call_a_message = False

    def parser(self, names: Collection[str], *, is_parallel: bool) -> CallParser:
        # Models that were trained on several forms mix their keys up.
        keys = ("arguments", "parameters")
        return CallParser(_TagGate(), names, keys, is_parallel=is_parallel)

    def grammar_rules(self, *, is_required: bool, is_parallel: bool) -> str:
        close = f'"\\n" call "\\n{CLOSE_TAG}"'
        if is_required:
            more = ' ("\\n" tagged)*' if is_parallel else ""
            return f'answer: tagged{more}\ntagged: "{OPEN_TAG}" {close}\n'
        # Lazy: the text ends with the first tag, and from there on the call is constrained.
        answer = "tagged* TEXT" if is_parallel else "TEXT | tagged"
        return (
            f"answer: {answer}\nTEXT: /(.|\\n)*/\n"
            f'until_tag[lazy]: TEXT "{OPEN_TAG}"\ntagged: until_tag {close}\n'
        )


class _TagGate:
    """Finds opening tags; drops a closing one behind a call."""

    def __init__(self) -> None:
        self._space: list[str] = []  # white space that may stand before a tag
        self._tag = ""  # what may be the beginning of a tag
        self._may_close = False  # nothing but white space since a call
        self._touches_call = False  # the same, or white space and a closing tag

    def push(self, char: str) -> Passage:
        if char.isspace() and not self._tag:
            self._space.append(char)
            return Passage()
        self._tag += char
        if self._tag == OPEN_TAG:
            return Passage(opening=self._take_space() + self._take_tag())
        if self._tag == CLOSE_TAG and self._may_close:
            self._take_space()
            self._take_tag()
            self._may_close = False
            return Passage()
        if OPEN_TAG.startswith(self._tag) or (self._may_close and CLOSE_TAG.startswith(self._tag)):
            return Passage()
        return self._pass_first_of_tag()

    def pass_plain(self, text: str, begin: int) -> int:
        if self._space or self._tag:
            return begin
        tag = text.find(OPEN_TAG[0], begin)
        end = len(text) if tag < 0 else tag
        while end > begin and text[end - 1].isspace():
            end -= 1
        if end > begin:
            self.resume(after_call=False)
        return end

    def resume(self, *, after_call: bool) -> None:
        self._may_close = self._touches_call = after_call

    def flush(self) -> str:
        # White space at the end is content, unless all before it was calls' to the last tag.
        space = self._take_space()
        tag = self._take_tag()
        if self._may_close and tag.startswith(_CLOSING):  # cut off: the call it closes is whole
            return ""
        return tag and space + tag if self._touches_call else space + tag

    def _pass_first_of_tag(self) -> Passage:
        """What is held begins no tag; but behind its first character one may begin."""
        held = self._take_tag()
        self.resume(after_call=False)
        content = [self._take_space(), held[0]]
        for char in held[1:]:
            # At most a few: a tag's text has no tag in it, so that none can open here.
            content.append(self.push(char).content)
        return Passage("".join(content))

    def _take_space(self) -> str:
        space, self._space = "".join(self._space), []
        return space

    def _take_tag(self) -> str:
        tag, self._tag = self._tag, ""
        return tag
