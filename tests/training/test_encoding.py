"""Tokens of examples: labels, targets and packing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from motet.core.errors import ConfigError
from motet.training.encoding import NO_LABEL, Encoded, batches, encode, pack
from motet.training.examples import Example, Segment
from tests.server.tiny_model import write_tiny_model

EXPERTS = {"a": 0, "b": 1}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(write_tiny_model(tmp_path / "base"))


def shown(tokenizer: Any, encoded: Encoded) -> str:
    """One character a token: its label."""
    return "".join("-" if label == NO_LABEL else "ab"[label] for label in encoded.labels)


def test_all_of_a_single_exchange_is_its_tasks(tokenizer: Any) -> None:
    encoded = encode(tokenizer, Example((Segment("b", "Why?", "So."),)), EXPERTS)
    #         <bos>user: Why?\nassistant: So.      (the end of turn is only predicted)
    assert shown(tokenizer, encoded) == "-" * len("_user: ") + "b" * len("Why?\nassistant: So.")
    predicted = [target for target in encoded.targets if target != NO_LABEL]
    assert tokenizer.decode(predicted) == "So.<eos>"
    assert encoded.targets[-len("So.") - 1] == predicted[0]


def test_a_composite_labels_the_token_that_decides(tokenizer: Any) -> None:
    example = Example((Segment("a", "Why?", "So."), Segment("b", "Who?", "Me.")))
    encoded = encode(tokenizer, example, EXPERTS)
    text = tokenizer.decode(encoded.ids, skip_special_tokens=True)
    assert text == "user: 1. Why?\n2. Who?\nassistant: 1. So.\n2. Me."
    # The space before an answer decides its first letter, and an answer's last letter what
    # follows: a line break, which is nobody's, or the end of turn.
    assert shown(tokenizer, encoded) == (
        "-------" + "---aaaa" + "----bbbb" + "-" * len("\nassistant: ") + "--aaa-" + "---bbbb"
    )


def test_prompts_are_learnt_if_asked_for(tokenizer: Any) -> None:
    example = Example((Segment("a", "Why?", "So."),))
    encoded = encode(tokenizer, example, EXPERTS, learns_prompts=True)
    predicted = [target for target in encoded.targets if target != NO_LABEL]
    assert tokenizer.decode(predicted) == "hy?\nassistant: So.<eos>"


def test_a_template_that_changes_the_message_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(ConfigError, match="chat template changes"):
        encode(tokenizer, Example((Segment("a", "Why?", "So."),)), EXPERTS)


def test_packed_examples_do_not_see_one_another() -> None:
    batch = pack([Encoded([1, 2], [0, 0], [2, 3]), Encoded([4, 5, 6], [1, 1, 1], [5, 6, 7])])
    assert batch.input_ids.tolist() == [[1, 2, 4, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2]]
    assert batch.labels.tolist() == [[0, 0, 1, 1, 1]]
    assert batch.targets.tolist() == [[2, 3, 5, 6, 7]]
    first, second = torch.ones(2, 2).tril(), torch.ones(3, 3).tril()
    assert torch.equal(batch.attention_mask[0, 0], torch.block_diag(first, second).bool())


def test_batches_are_the_same_for_a_seed_and_leave_nothing_out() -> None:
    examples = [Encoded([i] * (1 + i % 3), [0] * (1 + i % 3), [i] * (1 + i % 3)) for i in range(9)]
    one, same = batches(examples, 6, seed=3), batches(examples, 6, seed=3)
    other = batches(examples, 6, seed=4)
    drawn = [next(one).input_ids.tolist() for _ in range(20)]
    assert drawn == [next(same).input_ids.tolist() for _ in range(20)]
    assert drawn != [next(other).input_ids.tolist() for _ in range(20)]
    assert all(len(ids) <= 6 for (ids,) in drawn)
    assert {i for (ids,) in drawn for i in ids} == set(range(9))


def test_an_example_longer_than_a_batch_is_one_by_itself() -> None:
    long = Encoded([1] * 9, [0] * 9, [1] * 9)
    assert next(batches([long], 6, seed=0)).input_ids.shape == (1, 9)
