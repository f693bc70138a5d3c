"""Requests of a workload as they are sent: with a served model's name and a prompt.

Owns: putting them together.
Does not know: which names there are (`naming.py`), how prompts are made (`prompts.py`), nor what
else a body holds (`target.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motet.bench.client import Asked
from motet.bench.prompts import PromptWriter
from motet.bench.target import Prompt, PromptForm, Target
from motet.bench.workload import WorkRequest


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How the requests of one workload are asked.

    Attributes:
        models: the name of a model for each adapter, and for None (`naming.py`).
        writer: of the prompts.
        token_ids: what prompts of token ids are made of; empty for the other forms.
    """

    target: Target
    models: Mapping[str | None, str]
    writer: PromptWriter
    token_ids: Sequence[int] = ()

    def asked(self, request: WorkRequest) -> Asked:
        """A request, ready to be sent."""
        model = self.models[request.adapter]
        return Asked(
            index=request.index,
            adapter=request.adapter,
            tenant=request.tenant,
            model=model,
            body=self.target.body(model, self._prompt(request), request.num_output_tokens),
            num_output_tokens=request.num_output_tokens,
        )

    def _prompt(self, request: WorkRequest) -> Prompt:
        match self.target.prompts:
            case PromptForm.TOKENS:
                return self.writer.token_ids(request, self.token_ids)
            case PromptForm.REPEATED:
                return self.writer.repeated(request)
            case PromptForm.TEXT:
                return self.writer.text(request)
