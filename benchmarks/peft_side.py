"""transformers, with PEFT if there are adapters, as a side of the throughput comparison.

Owns: the worker process (`python -m benchmarks.peft_side`) and the handle on it, `PeftSide`.
Does not know: what it is compared with.

They speak JSON, one line each way per round, over the worker's standard input and output.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.work import Outcome, Round

_BASE = "__base__"  # PEFT's name for "no adapter" in a mixed batch


class PeftSide:
    """A worker that holds the base model and all adapters in float32, and generates on demand.

    Args:
        model_dir: a Hugging Face directory.
        adapters: PEFT directories by name; without any, transformers' own model runs bare.
        num_threads: CPU threads of torch.
        log: file for what the worker has to say.
    """

    def __init__(
        self, model_dir: Path, adapters: Mapping[str, Path], num_threads: int, log: Path
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.peft_side"]
        command += ["--model", str(model_dir), "--threads", str(num_threads)]
        command += [f"--adapter={name}={path}" for name, path in adapters.items()]
        self._log = log
        with log.open("w") as sink:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(num_threads)},
            )

    def run(self, work: Round) -> Outcome:
        """Generate for all requests in one static batch. Raises RuntimeError if the worker died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(work)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the PEFT side ended:\n{self._log.read_text()[-4000:]}")
        return Outcome(**json.loads(answer))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def load_peft_model(model_dir: Path, adapters: Mapping[str, Path]) -> Any:
    """The base model in float32 with every adapter attached, ready for mixed batches.

    Without adapters it is transformers' model as it is.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    # Never stop early and never forbid a token: Motet is asked for the same with `ignore_eos`.
    model.generation_config.eos_token_id = None
    if not adapters:
        return model.eval()
    first, *others = adapters
    peft_model = PeftModel.from_pretrained(
        model, str(adapters[first]), adapter_name=first, low_cpu_mem_usage=True
    )
    for name in others:
        peft_model.load_adapter(str(adapters[name]), adapter_name=name, low_cpu_mem_usage=True)
    return peft_model.eval()


def generate(model: Any, work: Round) -> tuple[float, list[list[int]]]:
    """Greedy generation of one round. Returns its wall time [s] and the new tokens by request."""
    import torch

    input_ids = torch.tensor(work.prompts)
    start_s = time.perf_counter()
    with torch.inference_mode():
        output_ids = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            **_adapter_names(model, work),
            do_sample=False,
            min_new_tokens=work.num_output_tokens,
            max_new_tokens=work.num_output_tokens,
            pad_token_id=0,
        )
    elapsed_s = time.perf_counter() - start_s
    return elapsed_s, output_ids[:, input_ids.shape[1] :].tolist()


def _adapter_names(model: Any, work: Round) -> dict[str, list[str]]:
    """What PEFT is told of a mixed batch; transformers' own model would not understand it."""
    if not hasattr(model, "peft_config"):
        return {}
    return {"adapter_names": [name or _BASE for name in work.adapters]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=DIRECTORY")
    arguments = parser.parse_args()

    # Only answers may reach the pipe, whatever libraries print.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(arguments.threads)
    adapters = {}
    for item in arguments.adapter:
        name, _, directory = item.partition("=")
        adapters[name] = Path(directory)
    model = load_peft_model(arguments.model, adapters)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    for line in sys.stdin:
        elapsed_s, new_tokens = generate(model, Round(**json.loads(line)))
        outcome = Outcome(
            elapsed_s=elapsed_s,
            num_output_tokens=sum(len(tokens) for tokens in new_tokens),
            texts=tokenizer.batch_decode(new_tokens, skip_special_tokens=True),
        )
        print(json.dumps(asdict(outcome)), file=answers, flush=True)


if __name__ == "__main__":
    main()
