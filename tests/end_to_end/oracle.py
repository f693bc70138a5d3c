"""What transformers and PEFT say, in float32: the answers that Motet must give."""

import json
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer


class Oracle:
    """The base model with all adapters loaded, one generation at a time."""

    def __init__(self, model_dir: Path, adapters: dict[str, Path]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        self._model = model.eval()
        for name, directory in adapters.items():
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(directory, adapter_name=name)
            else:
                self._model = PeftModel.from_pretrained(model, directory, adapter_name=name).eval()

    def chat_token_ids(self, user_text: str) -> list[int]:
        """The prompt of a chat with one user message."""
        ids: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": user_text}],
            add_generation_prompt=True,
            return_dict=False,
        )
        return ids

    @torch.inference_mode()
    def greedy(self, adapter: str | None, prompt_token_ids: list[int], num_tokens: int) -> str:
        """The text of exactly `num_tokens` greedy tokens, end-of-text ignored."""
        prompt = torch.tensor([prompt_token_ids])
        settings = {
            "max_new_tokens": num_tokens,
            "min_new_tokens": num_tokens,
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
            "attention_mask": torch.ones_like(prompt),
        }
        if adapter is None:
            with self._model.disable_adapter():
                output = self._model.generate(prompt, **settings)
        else:
            self._model.set_adapter(adapter)
            output = self._model.generate(prompt, **settings)
        text: str = self.tokenizer.decode(
            output[0, len(prompt_token_ids) :], skip_special_tokens=True
        )
        return text

    @torch.inference_mode()
    def logprobs(self, adapter: str | None, token_ids: list[int]) -> torch.Tensor:
        """[len(token_ids) - 1, vocabulary]: row i has those of what may stand at place i + 1."""
        tokens = torch.tensor([token_ids])
        if adapter is None:
            with self._model.disable_adapter():
                logits = self._model(tokens).logits
        else:
            self._model.set_adapter(adapter)
            logits = self._model(tokens).logits
        return torch.log_softmax(logits[0, :-1].float(), dim=-1)

    @torch.inference_mode()
    def composed_logprobs(self, weights: dict[str, float], token_ids: list[int]) -> torch.Tensor:
        """As `logprobs`, with the deltas of several adapters added up, each times its weight."""
        layers = [each for each in self._model.modules() if isinstance(each, LoraLayer)]
        self._model.base_model.set_adapter(list(weights))  # PEFT adds up all that are active
        try:
            for layer in layers:
                for name, weight in weights.items():
                    layer.set_scale(name, weight)
            logits = self._model(torch.tensor([token_ids])).logits
        finally:
            for layer in layers:
                for name in weights:
                    layer.set_scale(name, 1.0)
        return torch.log_softmax(logits[0, :-1].float(), dim=-1)


def example_prompts(examples: Path) -> dict[str, list[dict[str, str]]]:
    """The prompts and expected answers that come with the example adapters, by adapter."""
    prompts: dict[str, list[dict[str, str]]] = json.loads((examples / "prompts.json").read_text())
    return prompts
