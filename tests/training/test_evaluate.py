"""What counts as right, and that generation is greedy, padded and told rightly."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from motet.core.routing import RoutingRule
from motet.core.shape import MODULES
from motet.training.encoding import encode
from motet.training.evaluate import agreement, evaluate, generate_replies, num_right
from motet.training.examples import Example, Segment, read_examples
from motet.training.experts import load_experts
from motet.training.routed_model import RoutedModel
from tests.training.tiny import SHAPE, TASKS, write_base, write_examples, write_experts

SINGLE = Example((Segment("a", "?", "one"),))
COMPOSITE = Example((Segment("a", "?", "one"), Segment("b", "?", "two"), Segment("a", "?", "six")))


@pytest.mark.parametrize(
    ("example", "reply", "right"),
    [
        (SINGLE, " one\n", 1),
        (SINGLE, "one two", 0),
        (SINGLE, "1. one", 0),
        (COMPOSITE, "1. one\n2. two\n3. six", 3),
        (COMPOSITE, "1. two\n2. one\n3. six ", 1),  # right answers under wrong numbers
        (COMPOSITE, "two", 1),
        (COMPOSITE, "1. one two six", 0),
        (COMPOSITE, "", 0),
    ],
)
def test_what_counts_as_right(example: Example, reply: str, right: int) -> None:
    assert num_right(example, reply) == right


def test_replies_are_greedy_whatever_they_are_padded_with(tmp_path: Path) -> None:
    """Each of a batch of unlike lengths equals the reply to it alone, token by token."""
    base = write_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    experts = load_experts(write_experts(tmp_path), SHAPE)
    gates = {(i, m): torch.randn(2, SHAPE.in_features(m)) for i in range(2) for m in MODULES}
    model = RoutedModel(
        AutoModelForCausalLM.from_pretrained(base).eval(), experts, RoutingRule(top_k=1), gates
    )
    examples = [Example((Segment("upper", "x" * n, "a" * 6),)) for n in (1, 5, 17)]
    together = generate_replies(model, tokenizer, examples)
    for example, reply in zip(examples, together, strict=True):
        ids = tokenizer(f"<bos>user: {example.segments[0].prompt}\nassistant: ")["input_ids"]
        new: list[int] = []
        with torch.no_grad():
            while len(new) < 10 and tokenizer.eos_token_id not in new:
                new.append(int(model.model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        assert reply == tokenizer.decode(new, skip_special_tokens=True)


def test_a_perfect_router_is_seen_as_one(tmp_path: Path) -> None:
    """Gates that always choose an expert agree with its labels alone, and answer as it does."""
    base = write_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    experts = load_experts(write_experts(tmp_path), SHAPE)
    examples = read_examples(write_examples(tmp_path / "x.jsonl", 3, 2), TASKS)
    encoded = [encode(tokenizer, example, {"upper": 0, "lower": 1}) for example in examples]
    always_first = {(i, m): torch.zeros(2, SHAPE.in_features(m)) for i in range(2) for m in MODULES}
    model = RoutedModel(
        AutoModelForCausalLM.from_pretrained(base).eval(),
        experts,
        RoutingRule(top_k=1),
        always_first,
    )
    parts: list[str] = []
    measured = evaluate(model, tokenizer, TASKS, examples, encoded, parts.append)
    labels = [label for each in encoded for label in each.labels if label >= 0]
    assert measured.agreement == pytest.approx(labels.count(0) / len(labels))
    assert measured.agreement == agreement(model, encoded)
    assert measured.routed["upper"] == measured.named["upper"]
    assert set(measured.composite_named) == set(TASKS)
    assert measured.composite == measured.composite_named["upper"]
    assert "composites" in parts
