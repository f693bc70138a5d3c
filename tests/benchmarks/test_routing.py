"""What the routing benchmark asks, what it counts as right, and what it makes of that."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks.open_loop import Answer, Completion
from benchmarks.routing import report
from benchmarks.routing_accuracy import Accuracy
from benchmarks.routing_mixed import mixed_bodies
from benchmarks.routing_questions import Message, Messages, Question, read_messages
from benchmarks.routing_speed import decode_rate, write_random_set
from motet.adapters.peft_lora import load_adapter
from motet.bench.sse import Stream
from motet.models.config import load_config
from tests.benchmarks.tiny import write_tiny_model

DATE = Question("dates", "When was it?\nIn May 1999.", "1999-05")
NUMBER = Question("numbers", "How many?\nforty", "40")
SQL = Question("sql", "All cities", "SELECT city;")
BOTH = Message((DATE, NUMBER))
METHODS = {"meteora": "routed-meteora"}


def test_several_questions_are_numbered() -> None:
    assert Message((DATE,)).text == DATE.prompt
    assert BOTH.text == "1. When was it?\nIn May 1999.\n2. How many?\nforty"


@pytest.mark.parametrize(
    ("reply", "num_right"),
    [
        (" 1999-05\n", 1),
        ("1. 1999-05", 0),
        ("1999-05 or so", 0),
        ("", 0),
    ],
)
def test_a_single_answer_is_the_whole_reply(reply: str, num_right: int) -> None:
    assert Message((DATE,)).num_right(reply) == num_right


@pytest.mark.parametrize(
    ("reply", "num_right"),
    [
        ("1. 1999-05\n2. 40", 2),
        ("1999-05\n 40 ", 2),
        ("2. 1999-05\n1. 40", 0),
        ("1. 1999-05 2. 40", 0),
        ("1. 1999-05\n2. 41", 1),
        ("40\n40", 1),
    ],
)
def test_one_answer_of_several_is_a_line(reply: str, num_right: int) -> None:
    assert BOTH.num_right(reply) == num_right


def test_messages_are_read_by_kind_and_cut_by_task(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    segments = [[DATE], [NUMBER], [DATE], [SQL], [DATE, NUMBER], [SQL, DATE]]
    lines = [
        {"segments": [{"task": q.task, "prompt": q.prompt, "answer": q.answer} for q in each]}
        for each in segments
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    messages = read_messages(path)
    assert messages.tasks == ["dates", "numbers", "sql"]
    assert (len(messages.single), len(messages.composite)) == (4, 2)
    part = messages.first(1, 1)
    assert [message.segments for message in part.single] == [(DATE,), (NUMBER,), (SQL,)]
    assert part.composite == [BOTH]


def test_a_mixed_batch_holds_every_kind() -> None:
    messages = Messages([Message((q,)) for q in (DATE, NUMBER, SQL)], [BOTH])
    kinds: set[str] = set()
    for turn in range(3):
        for body in mixed_bodies("base", METHODS, messages, turn):
            model, parts = body["model"], body.get("lora")
            assert parts is None or model == "base"  # `lora` composes on the base model
            kinds |= {
                "weighted"
                if parts
                else "base"
                if model == "base"
                else "routed"
                if model in METHODS.values()
                else "composed"
                if "+" in model
                else "plain"
            }
            assert body["temperature"] == 0
    assert kinds == {"weighted", "base", "routed", "composed", "plain"}


def test_the_decode_rate_begins_when_all_streams_have() -> None:
    def answer(sent_s: float, times_s: list[float]) -> Answer:
        stream: Any = Stream(num_output_tokens=9, piece_times_s=times_s, total_s=times_s[-1])
        completion = Completion(model="m", prompt=[1], num_output_tokens=9)
        return Answer(completion=completion, sent_s=sent_s, stream=stream)

    # They begin at 1.0 and at 2.0, and end at 5.0 and at 6.0: 16 tokens in 4 seconds.
    assert decode_rate([answer(0.5, [0.5, 4.5]), answer(1.0, [1.0, 5.0])]) == pytest.approx(4.0)


def test_a_random_set_names_what_lies_in_it(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", seed=1)
    made = write_random_set(model_dir, tmp_path / "set", num_experts=3, rank=2, seed=2)
    shape = load_config(model_dir).shape
    config = json.loads((made.directory / "router_config.json").read_text())
    paths = [made.directory / each["path"] for each in config["experts"]]
    assert paths == list(made.experts)
    digests = [load_adapter(path, shape).digest for path in paths]
    assert digests == [each["digest"] for each in config["experts"]]
    assert len(set(digests)) == 3
    gates = load_file(made.directory / "router.safetensors")
    assert len(gates) == 7 * shape.num_layers
    assert gates["layers.1.mlp.down_proj.gate.weight"].shape == (3, shape.intermediate_size)
    assert gates["layers.0.self_attn.q_proj.gate.weight"].shape == (3, shape.hidden_size)


def test_the_report() -> None:
    accuracy = Accuracy(
        base=0.125,
        named=0.8,
        routed={"meteora": 0.76, "arrow": 0.4},
        composite_named={"dates": 0.2, "sql": 0.25},
        composite_routed={"meteora": 0.6, "arrow": 0.1},
    )
    found = report(accuracy, [80.0, 90.0, 70.0], [100.0, 100.0, 100.0], [])
    assert found["routed_over_named"] == {"meteora": 0.95, "arrow": 0.5}
    assert found["base_accuracy"] == 0.125
    assert found["composite_over_best_single"] == 2.4
    assert found["decode_over_named"] == {"median": 0.8, "least": 0.7, "largest": 0.9}
    assert found["mixed_batch_equal"] is True
    assert report(accuracy, [1.0], [1.0], ["sql: from token 3 on"])["mixed_batch_equal"] is False
    json.dumps(found)


def test_nothing_is_divided_by_nothing() -> None:
    none = Accuracy(0.0, 0.0, {"meteora": 0.0}, {"dates": 0.0}, {"meteora": 0.5})
    found = report(none, [1.0], [1.0], [])
    assert found["routed_over_named"] == {"meteora": None}
    assert found["composite_over_best_single"] is None
