"""What finding a prompt in the prefix cache costs: the page tree against a chain of digests.

    python -m benchmarks.prefix_lookup

Both find the longest cached beginning of a prompt in whole pages. The tree
(`memory/prefix_cache.py`) goes from page to page by the exact tokens of each; the chain, as other
servers have it, looks up a SHA-256 digest over the tokens of a page and the digest of the page
before it. The last line of the output is one JSON object; times are medians, in microseconds per
look-up.
"""

import argparse
import hashlib
import json
import random
import statistics
import time
from array import array
from collections.abc import Callable

from motet.core.shape import ModelShape
from motet.memory.eviction import PageCosts, SavingPolicy
from motet.memory.geometry import PageGeometry
from motet.memory.unified import unified_memory

PAGE_SIZE = 16
VOCAB_SIZE = 50_000
SHAPE = ModelShape(
    num_layers=1,
    hidden_size=2,
    intermediate_size=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=VOCAB_SIZE,
)


def tree_lookup(prompts: list[list[int]]) -> Callable[[list[int]], int]:
    """Pages found in a tree that holds these prompts."""
    num_pages = sum(len(prompt) // PAGE_SIZE for prompt in prompts)
    memory = unified_memory(
        PageGeometry(SHAPE, PAGE_SIZE),
        SavingPolicy(PageCosts()),
        page_bytes=1,
        num_pages=num_pages,
        row_capacity=1,
        host_budget_pages=1,
    )
    for prompt in prompts:
        held = memory.prefixes.match((None, None), prompt, len(prompt) // PAGE_SIZE)
        memory.prefixes.acquire(held)
        for start in range(len(held) * PAGE_SIZE, len(prompt), PAGE_SIZE):
            pages = memory.pool.allocate(1, "kv:x")
            assert pages is not None
            tokens = prompt[start : start + PAGE_SIZE]
            parent = held[-1] if held else None
            held.append(memory.prefixes.extend((None, None), parent, tokens, pages[0], "kv:x"))
        memory.prefixes.release(held)
    return lambda prompt: len(memory.prefixes.match((None, None), prompt, len(prompt) // PAGE_SIZE))


def chain_lookup(prompts: list[list[int]]) -> Callable[[list[int]], int]:
    """Pages found in a dictionary of chained digests."""
    known: dict[bytes, int] = {}

    def digests(prompt: list[int]) -> list[bytes]:
        chained = []
        before = b""
        for start in range(0, len(prompt) - PAGE_SIZE + 1, PAGE_SIZE):
            tokens = array("I", prompt[start : start + PAGE_SIZE]).tobytes()
            before = hashlib.sha256(before + tokens).digest()
            chained.append(before)
        return chained

    for prompt in prompts:
        for digest in digests(prompt):
            known.setdefault(digest, len(known))

    def find(prompt: list[int]) -> int:
        num_found = 0
        for digest in digests(prompt):
            if digest not in known:
                break
            num_found += 1
        return num_found

    return find


def median_us(find: Callable[[list[int]], int], prompts: list[list[int]], expected: int) -> float:
    """Microseconds of one look-up."""
    times_s = []
    for prompt in prompts:
        start_s = time.perf_counter()
        num_found = find(prompt)
        times_s.append(time.perf_counter() - start_s)
        assert num_found == expected
    return round(statistics.median(times_s) * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500, help="cached prompts")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of each prompt")
    options = parser.parse_args()
    rng = random.Random(0)

    def draw() -> list[int]:
        return [rng.randrange(VOCAB_SIZE) for _ in range(options.tokens)]

    cached = [draw() for _ in range(options.prompts)]
    unknown = [draw() for _ in range(options.prompts)]
    result: dict[str, object] = {"cached_prompts": options.prompts, "tokens": options.tokens}
    for name, make in (("tree", tree_lookup), ("chain", chain_lookup)):
        find = make(cached)
        result[f"{name}_hit_us"] = median_us(find, cached, options.tokens // PAGE_SIZE)
        result[f"{name}_miss_us"] = median_us(find, unknown, 0)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
