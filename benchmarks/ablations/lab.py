"""Servers for the sides of an ablation, and the playing of their workloads.

Owns: the scratch directory's content, the processes of the servers, and where results go.
Does not know: what is compared.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ablations.plan import Kind, ServerSpec, Trial
from benchmarks.adapter_farm import AdapterFarm
from benchmarks.many_adapters.plan import S1, S2
from benchmarks.serve_config import MERGE_AND_SWAP, serve_config_command
from benchmarks.server_process import ServerProcess
from motet.bench.measures import Summary
from motet.bench.named import make_workload
from motet.bench.results import write_results
from motet.bench.run import RunOptions, run_workload
from motet.bench.target import PromptForm, Target
from motet.core.config import EngineConfig
from motet.server.key_file import edit_keys
from motet.server.keys import Key, digest_of, new_secret, utc_now
from motet.server.principal import Role

_KINDS = {"s1": S1, "s2": S2}
_TENANTS = ("flood", "polite")
_MAX_RUNNING = 32
_NUM_WARM_UP = 16
_NUM_FILES_PER_RANK = 8


class Lab:
    """Where trials are run.

    Args:
        model_dir: the base model.
        num_adapters: of each kind.
        scratch: an empty directory; the caller removes it.
        results: where each run's folder goes.
        say: takes a line on how it goes.
    """

    def __init__(
        self,
        model_dir: Path,
        num_adapters: int,
        scratch: Path,
        results: Path,
        say: Callable[[str], None],
    ) -> None:
        self._model_dir = model_dir
        self._num_adapters = num_adapters
        self._scratch = scratch
        self._results = results
        self._say = say
        self._farm = AdapterFarm(model_dir, scratch / "weights", _NUM_FILES_PER_RANK, seed=0)
        self._secrets = {tenant: new_secret() for tenant in _TENANTS}
        self._servers: dict[ServerSpec, ServerProcess] = {}

    def capacity_per_s(self, parameters: Mapping[str, Any]) -> float:
        """Requests of this kind that the plain server does in a second, in a closed loop."""
        trial = Trial(name="capacity", parameters=parameters)
        summary = self.run("capacity", trial, 1, 0.0)
        assert summary.finished_per_s is not None
        return summary.finished_per_s

    def run(self, part: str, trial: Trial, repeat: int, capacity_per_s: float) -> Summary:
        """Play a trial's workload on its server, and keep what came of it.

        Raises:
            RuntimeError: requests failed, other than by refusal.
            KeyboardInterrupt: it was interrupted; a part of a trial is worth nothing.
        """
        workload = make_workload(trial.workload, scaled(trial, capacity_per_s), seed=repeat)
        server = self._server(trial.server)
        options = RunOptions(
            label=trial.name,
            num_clients=trial.num_clients if trial.load is None else None,
            num_warm_up=_NUM_WARM_UP,
        )
        target = Target(
            url=server.url,
            prompts=PromptForm.TOKENS,
            template=f"{_KINDS[trial.server.kind].name}-{{index}}",
            api_key=self._secrets["polite"] if trial.server.has_tenants else None,
            tenant_keys=self._secrets if trial.server.has_tenants else {},
        )
        run = run_workload(workload, target, options)
        if run.info.settings["interrupted"]:
            raise KeyboardInterrupt
        folder = self._results / part / f"{trial.name}-{repeat}"
        folder.mkdir(parents=True)
        summary = write_results(folder, workload, run)
        if summary.num_failed:
            raise RuntimeError(f"{part}, {trial.name}: {summary.errors}")
        self._say(
            f"{part}, {trial.name}, repeat {repeat}: {summary.finished_per_s:.2f} requests/s, "
            f"attainment {summary.attainment:.3f}, {summary.num_refused} refused"
        )
        return summary

    def close(self) -> None:
        """Stop all servers."""
        while self._servers:
            _, server = self._servers.popitem()
            server.close()

    def _server(self, spec: ServerSpec) -> ServerProcess:
        if spec not in self._servers:
            log = self._scratch / f"server-{len(os.listdir(self._scratch))}.log"
            key = self._secrets["polite"] if spec.has_tenants else None
            self._servers[spec] = ServerProcess(self._command(spec), log, key)
        return self._servers[spec]

    def _command(self, spec: ServerSpec) -> list[str]:
        config = EngineConfig(
            model=str(self._model_dir),
            pool_memory_bytes=spec.pool_bytes,
            prefix_cache=spec.prefix_cache,
            policy=spec.policy,
            ttft_slo_s=spec.ttft_slo_s,
            num_cluster_adapters=spec.num_cluster_adapters,
            static_adapter_pages=self._static_pages(spec),
            max_running=_MAX_RUNNING,
        )
        engine_module = MERGE_AND_SWAP if spec.merges else None
        keys_file = self._keys_file() if spec.has_tenants else None
        return serve_config_command(config, self._adapter_dir(spec.kind), engine_module, keys_file)

    def _static_pages(self, spec: ServerSpec) -> int | None:
        """Pages for adapters alone: a share of those that a server without such a part has."""
        if spec.adapter_share is None:
            return None
        whole = self._server(replace(spec, adapter_share=None))
        memory = whole.get_json("/admin/v1/memory")
        return int(spec.adapter_share * memory["pages"]["total"])

    def _adapter_dir(self, kind: Kind) -> Path:
        directory = self._scratch / kind
        if not directory.exists():
            self._farm.write(_KINDS[kind], self._num_adapters, directory)
        return directory

    def _keys_file(self) -> Path:
        path = self._scratch / "keys.json"
        if not path.exists():
            keys = [
                Key(
                    id=tenant,
                    sha256=digest_of(secret),
                    roles=[Role.INFERENCE],
                    tenant=tenant,
                    created_at=utc_now(),
                )
                for tenant, secret in self._secrets.items()
            ]
            edit_keys(path, lambda _: keys)
        return path


def scaled(trial: Trial, capacity_per_s: float) -> dict[str, Any]:
    """A workload's parameters with rates for this machine; as they are in a closed loop."""
    parameters = dict(trial.parameters)
    if trial.load is None:
        return parameters
    rate_per_s = trial.load * capacity_per_s
    if "rates_per_s" in parameters:
        rates = tuple(share * rate_per_s for share in parameters["rates_per_s"])
        return {**parameters, "rates_per_s": rates}
    return {**parameters, "rate_per_s": rate_per_s}
