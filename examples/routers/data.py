"""Write what the example routers learn from, and what they are tested with.

    python examples/routers/data.py --out /tmp/routers

Questions come from the generators of the example adapters, `../adapters/tasks.py`: single ones of
all seven tasks, and composites, which ask three questions of different tasks in one message.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
from tasks import TASKS, Task

NUM_QUESTIONS = 3

Segment = dict[str, str]


def draw(task: Task, rng: Random, seen: set[str]) -> Segment:
    """One question that is not in `seen`, which it joins."""
    while True:
        text, answer = task.draw(rng)
        prompt = f"{task.instruction}\n{text}"
        if prompt not in seen:
            seen.add(prompt)
            return {"task": task.name, "prompt": prompt, "answer": answer}


def make_examples(
    rng: Random, num_single: int, num_composite: int, seen: set[str]
) -> list[list[Segment]]:
    """`num_single` examples of each task, then composites of different tasks."""
    examples = [[draw(task, rng, seen)] for task in TASKS.values() for _ in range(num_single)]
    for _ in range(num_composite):
        tasks = rng.sample(list(TASKS.values()), NUM_QUESTIONS)
        examples.append([draw(task, rng, seen) for task in tasks])
    return examples


def write(path: Path, examples: list[list[Segment]]) -> None:
    lines = [json.dumps({"segments": segments}, ensure_ascii=False) for segments in examples]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the two files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rng = Random(f"routers/{arguments.seed}")
    # Held out first: no question of it is in the training data.
    seen: set[str] = set()
    write(arguments.out / "held_out.jsonl", make_examples(rng, 20, 40, seen))
    write(arguments.out / "train.jsonl", make_examples(rng, 200, 1400, seen))


if __name__ == "__main__":
    main()
