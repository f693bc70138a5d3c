"""The ways in which models write function calls, and which of them a model was trained on.

Owns: what a form is, and the choice between forms by the model's chat template.
Does not know: any form's details. A new one is a module beside `hermes.py` and `llama3.py`,
and a place in `_KNOWN_FORMS`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Protocol

from motet.server.tools.hermes import HermesForm
from motet.server.tools.llama3 import Llama3Form
from motet.server.tools.parser import CallParser


class ToolForm(Protocol):
    """One way to write calls.

    Attributes:
        marks: what chat templates of models with this form all hold.
        arguments_key: how the arguments are called beside the name.
        has_tags: calls stand in tags, so that JSON without tags is none.
        has_one_call_a_message: such templates refuse messages with several calls.
    """

    marks: tuple[str, ...]
    arguments_key: str
    has_tags: bool
    has_one_call_a_message: bool

    def parser(self, names: Collection[str], *, is_parallel: bool) -> CallParser:
        """A parser for one answer, which may call the functions of these names.

        Args:
            is_parallel: more than once.
        """
        ...

    def grammar_rules(self, *, is_required: bool, is_parallel: bool) -> str:
        """The rule `answer` of llguidance's Lark, over a rule `call` that is one call's object.

        Args:
            is_required: the answer is calls and nothing else; otherwise it is any text, with
                calls where the parser would find them.
            is_parallel: there may be more than one call.
        """
        ...


# The form for models that were trained on none that is known here: it is the commonest, and
# such models are told of it in words (`prompt.py`).
_DEFAULT_FORM: ToolForm = HermesForm()
_KNOWN_FORMS: tuple[ToolForm, ...] = (_DEFAULT_FORM, Llama3Form())


def form_of(template: str) -> ToolForm:
    """The form in which a model with this chat template is to call."""
    return native_form(template) or _DEFAULT_FORM


def native_form(template: str) -> ToolForm | None:
    """The form that a chat template teaches; None if it takes no tools, or in no known form."""
    if re.search(r"\btools\b", template) is None:
        return None
    text = template.replace("\\", "")  # quotes within strings
    return next((form for form in _KNOWN_FORMS if all(map(text.__contains__, form.marks))), None)
