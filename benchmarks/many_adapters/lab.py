"""The servers and adapters that the parts share, each made when it is first asked for.

Owns: the scratch directory's content, and the processes of the servers until `close`.
Does not know: what is measured on them.

- `many`: ten thousand adapters in one directory
- `few`: five of each setting, else as `many`
- `small`: little pool and little host memory, for leaks
- `one_pool` and the splits: the same small pool, in one or in two
"""

import random
from collections.abc import Callable
from pathlib import Path

from benchmarks.adapter_farm import AdapterFarm, AdapterKind
from benchmarks.many_adapters.memory_view import read_memory
from benchmarks.many_adapters.plan import FEW, S1, S2, TINY, Plan
from benchmarks.open_loop import Completion
from benchmarks.serve_config import serve_config_command
from benchmarks.server_process import MOTET_SERVE, ServerProcess
from benchmarks.work import plain_token_ids
from motet.core.config import EngineConfig


class Lab:
    """What the parts measure on.

    Args:
        scratch: an empty directory; the caller removes it.
        say: takes a line on how it goes.
    """

    def __init__(
        self, plan: Plan, model_dir: Path, scratch: Path, say: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.say = say
        self.farm = AdapterFarm(model_dir, scratch / "weights", plan.num_files_per_rank, seed=0)
        self._model_dir = model_dir
        self._scratch = scratch
        self._token_ids = plain_token_ids(model_dir)
        self._servers: dict[str, ServerProcess] = {}

    @property
    def tiny_dir(self) -> Path:
        """Adapters that the small server may load, but does not name by itself."""
        return self._adapter_dir("tiny", {TINY: self.plan.leaks.num_tiny_adapters})

    def many(self) -> ServerProcess:
        kinds = {S1: self.plan.num_s1, S2: self.plan.num_s2}
        return self._server("many", lambda: self._serve("many", kinds))

    def few(self) -> ServerProcess:
        return self._server("few", lambda: self._serve("few", {S1: FEW, S2: FEW}))

    def small(self) -> ServerProcess:
        plan = self.plan.leaks
        directory = self._adapter_dir("small", {S1: plan.num_adapters})
        command = self._command(directory, plan.pool_bytes, plan.host_bytes)
        command += ["--adapter-root", str(self.tiny_dir)]
        return self._server("small", lambda: command)

    def one_pool(self) -> ServerProcess:
        return self._server("one_pool", lambda: self._serve_pool(static_adapter_pages=None))

    def split_pool(self, share: float) -> ServerProcess:
        """`share` of the pages of `one_pool` are for adapters alone, the others for KV alone."""
        num_pages = int(share * read_memory(self.one_pool()).num_pages_total)
        return self._server(
            f"split_{share}", lambda: self._serve_pool(static_adapter_pages=num_pages)
        )

    def completion(
        self, rng: random.Random, model: str, num_prompt_tokens: int, num_output_tokens: int
    ) -> Completion:
        """A completion with a prompt of fresh random tokens."""
        prompt = self.tokens(rng, num_prompt_tokens)
        return Completion(model=model, prompt=prompt, num_output_tokens=num_output_tokens)

    def tokens(self, rng: random.Random, num_tokens: int) -> list[int]:
        """Fresh random tokens without a meaning of their own."""
        return rng.choices(self._token_ids, k=num_tokens)

    def close(self) -> None:
        """Stop all servers."""
        while self._servers:
            _, server = self._servers.popitem()
            server.close()

    def _server(self, name: str, command: Callable[[], list[str]]) -> ServerProcess:
        if name not in self._servers:
            started = ServerProcess(command(), self._scratch / f"{name}.log")
            self._servers[name] = started
            self.say(f"server {name}: ready after {started.startup_s:.1f} s")
        return self._servers[name]

    def _serve(self, name: str, kinds: dict[AdapterKind, int]) -> list[str]:
        directory = self._adapter_dir(name, kinds)
        command = self._command(directory, self.plan.pool_bytes, self.plan.host_bytes)
        return [*command, "--max-running", str(self.plan.max_running)]

    def _command(self, adapter_dir: Path, pool_bytes: int, host_bytes: int) -> list[str]:
        command = [*MOTET_SERVE, str(self._model_dir), "--adapter-dir", str(adapter_dir)]
        command += ["--pool-memory", f"{pool_bytes}B", "--host-adapter-memory", f"{host_bytes}B"]
        return command

    def _serve_pool(self, static_adapter_pages: int | None) -> list[str]:
        plan = self.plan.unified
        config = EngineConfig(
            model=str(self._model_dir),
            pool_memory_bytes=plan.pool_bytes,
            host_adapter_bytes=plan.host_bytes,
            static_adapter_pages=static_adapter_pages,
        )
        return serve_config_command(config, self._adapter_dir("pools", {S2: plan.num_adapters}))

    def _adapter_dir(self, name: str, kinds: dict[AdapterKind, int]) -> Path:
        directory = self._scratch / name
        if not directory.exists():
            for kind, num_adapters in kinds.items():
                self.farm.write(kind, num_adapters, directory)
        return directory
