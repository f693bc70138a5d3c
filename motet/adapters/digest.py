"""The identity of an adapter: a SHA-256 digest of what it computes.

Owns: which facts enter the digest, and in which form.
Does not know: file formats.

For each touched projection, in order of layer and then module, the digest takes one line of text

    layer module rank scaling a_dtype a_rows a_columns b_dtype b_rows b_columns

(scaling as C99 hexadecimal, so exactly), and then the bytes of A and of B as stored, row by row.
The line gives the length of the bytes that follow, so no two contents give the same stream.

Names of files and of the adapter, the order of tensors in the file, its metadata, the model card,
and everything that only training reads do not enter: they change no output. The stored dtype does,
although widening to float32 is exact: a re-saved copy in another dtype is another version.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from motet.core.pacing import Pace, at_once
from motet.core.shape import Module

_VERSION = b"motet adapter 1\n"


@dataclass(frozen=True, slots=True, eq=False)
class StoredPair:
    """The two factors of one projection as the checkpoint stores them.

    Attributes:
        a: [rank, in_features], in the stored dtype.
        b: [out_features, rank], in the stored dtype.
        scaling: the factor on b @ a.
    """

    layer: int
    module: Module
    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def content_digest(pairs: Iterable[StoredPair], *, pace: Pace = at_once) -> str:
    """Digest of an adapter's content, whatever the order of `pairs`: 64 hexadecimal characters.

    Args:
        pairs: the factors of each touched projection.
        pace: called between pieces of work.
    """
    sha = hashlib.sha256(_VERSION)
    for pair in sorted(pairs, key=lambda pair: (pair.layer, pair.module)):
        factors = (pair.a, pair.b)
        described = " ".join(f"{_dtype_name(t)} {t.shape[0]} {t.shape[1]}" for t in factors)
        head = f"{pair.layer} {pair.module.name} {pair.rank} {pair.scaling.hex()} {described}\n"
        sha.update(head.encode("ascii"))
        for factor in factors:
            sha.update(factor.contiguous().view(torch.uint8).numpy().data)
        pace()
    return sha.hexdigest()


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
