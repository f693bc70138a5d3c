"""Thousands of adapters on disk within seconds, made from a seed.

Owns: which weights and which scaling each directory of a farm has.
Does not know: the files' format (`random_adapters.py`), nor who serves them.

Ten thousand files of weights would be tens of gigabytes. So there are a few distinct files for each
rank, hard-linked into many directories, each of which has a `lora_alpha` of its own. A server's
digest covers the scaling, so every directory is another adapter to it: read, digested, packed and
paged for itself, with pages and a host copy of its own. What is flattered is the disk: the files
that a server reads are few and recently written, so they come from the system's page cache.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.random_adapters import (
    WEIGHTS_FILE,
    LinearSizes,
    linear_sizes,
    write_config,
    write_weights,
)

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True, kw_only=True)
class AdapterKind:
    """What the adapters of one farm have in common. Ranks go round, adapter by adapter.

    Attributes:
        name: adapter i is called name-i.
        num_layers: the first so many layers are touched; None is all.
    """

    name: str
    ranks: tuple[int, ...]
    modules: tuple[str, ...] = ATTENTION
    num_layers: int | None = None

    def adapter_name(self, index: int) -> str:
        return f"{self.name}-{index}"

    def rank_of(self, index: int) -> int:
        return self.ranks[index % len(self.ranks)]


class AdapterFarm:
    """Writes farms for one base model; farms of the same kind share their files of weights.

    Args:
        model_dir: a Hugging Face directory.
        weights_dir: where the distinct files go; on the same file system as the farms.
        num_files_per_rank: distinct files of each kind and rank.
    """

    def __init__(
        self, model_dir: Path, weights_dir: Path, num_files_per_rank: int, seed: int
    ) -> None:
        self._sizes = linear_sizes(model_dir)
        self._weights_dir = weights_dir
        self._num_files = num_files_per_rank
        self._generator = torch.Generator().manual_seed(seed)
        weights_dir.mkdir(parents=True)

    def write(self, kind: AdapterKind, num_adapters: int, out_dir: Path) -> None:
        """Write adapters 0 to `num_adapters` - 1 below `out_dir`."""
        for index in range(num_adapters):
            directory = out_dir / kind.adapter_name(index)
            directory.mkdir(parents=True)
            rank = kind.rank_of(index)
            weights = self._weights(kind, rank, index // len(kind.ranks) % self._num_files)
            os.link(weights, directory / WEIGHTS_FILE)
            # From 1 up to 2 times the rank: no two adapters of a farm have the same scaling.
            write_config(directory, rank, rank * (1 + index / num_adapters), kind.modules)

    def num_elems(self, kind: AdapterKind, index: int) -> int:
        """Elements of the rank rows of adapter `index`."""
        sizes = _touched(self._sizes, kind)
        return kind.rank_of(index) * sum(sum(each) for each in sizes.values())

    def _weights(self, kind: AdapterKind, rank: int, file_index: int) -> Path:
        path = self._weights_dir / f"{kind.name}-rank-{rank}-{file_index}.safetensors"
        if not path.exists():
            write_weights(path, _touched(self._sizes, kind), rank, self._generator)
        return path


def _touched(sizes: LinearSizes, kind: AdapterKind) -> LinearSizes:
    """The projections that adapters of this kind touch, of names like model.layers.7.….q_proj."""
    return {
        name: size
        for name, size in sizes.items()
        if name.rpartition(".")[2] in kind.modules
        and (kind.num_layers is None or int(name.split(".")[2]) < kind.num_layers)
    }
