"""A program that compiles grammars, so that none can hang or end the API process.

Owns: what constraints become, and the protocol on standard input and output.
Does not know: its caps on time and number; whoever starts it kills it (`grammar_worker.py`).

A line of JSON in, `{"kind": …, "text": …}`, is answered by one, `{"grammar": …}` or `{"error": …}`.
The first line out says that it is ready, or why it never will be: `{"error": …}` or `{}`.
It ends with its standard input.
"""

import argparse
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer, grammar_from

from motet.engine.grammar import GrammarError, compile_grammar, load_tokenizer
from motet.server.json_layout import JSON_LAYOUT

# Less than the engine's threads have: what is deeply nested ends this process, and not the engine.
_STACK_BYTES = 1 << 20
_MAX_MEMORY_BYTES = 2 << 30
# Whoever started this kills it sooner, if it still can.
_LAST_RESORT_S = 20
# Steps of the engine come first.
_NICENESS = 5


def grammar_text(kind: str, text: str) -> str:
    """The grammar of a constraint (`structured.Constraint`), in llguidance's form.

    Raises:
        ValueError: a GBNF grammar that cannot be read. Most faults show when it is compiled.
    """
    match kind:
        case "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=JSON_LAYOUT)
        case "regex":
            grammar = LLMatcher.grammar_from_regex(text)
        case "choice":
            options = " | ".join(_lark_string(each) for each in json.loads(text))
            grammar = LLMatcher.grammar_from_lark(f"start: {options}")
        case "grammar":
            grammar = grammar_from("gbnf", text)  # or Lark, as it looks
        case _:
            raise ValueError(f"unknown kind of constraint: {kind}")
    return str(grammar)


def _lark_string(text: str) -> str:
    # JSON's form, but for one control character that JSON does not escape and Lark does not take.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def check(tokenizer: LLTokenizer, kind: str, text: str) -> dict[str, str]:
    """The answer to one line."""
    try:
        grammar = grammar_text(kind, text)
        compile_grammar(tokenizer, grammar)
    except (GrammarError, ValueError, RecursionError) as error:
        return {"error": str(error)}
    return {"grammar": grammar}


def main() -> None:
    """Answer lines until there are no more."""
    parser = argparse.ArgumentParser(description="Compiles grammars for Motet's API process.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the model's tokenizer.json")
    parser.add_argument("--vocab-size", type=int, required=True, help="width of the logits")
    parser.add_argument("--eos", type=int, nargs="*", default=[], help="end-of-text tokens")
    options = parser.parse_args()
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    threading.stack_size(_STACK_BYTES)
    worker = threading.Thread(target=_answer_lines, args=(options,))
    worker.start()
    worker.join()


def _answer_lines(options: argparse.Namespace) -> None:
    try:
        tokenizer = load_tokenizer(options.tokenizer, options.vocab_size, options.eos)
    except GrammarError as error:
        _say({"error": error.message})
        return
    _say({})
    for line in sys.stdin.buffer:
        request: dict[str, Any] = json.loads(line)
        signal.alarm(_LAST_RESORT_S)
        answer = check(tokenizer, request["kind"], request["text"])
        signal.alarm(0)
        _say(answer)


def _say(message: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
