"""Vectors of 16 float32 as LLVM code, for the register tiles (`tiles_cpu.py`, `rows_cpu.py`).

Owns: the few operations that a tile is made of.
Does not know: what is multiplied.

Numba vectorizes a loop, but keeps no block of sums in registers across an outer one, and that is
what makes a product fast (Goto and van de Geijn, "Anatomy of high-performance matrix
multiplication", ACM TOMS 2008). So tiles are written in LLVM's terms. A vector has 16 lanes
whatever the machine has; LLVM cuts it to the registers that there are.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, types

LANES = 16
"""float32 in a vector: one cache line."""

HAS_WIDE_REGISTERS = bool(binding.get_host_cpu_features().get("avx512f", False))

INT = ir.IntType(64)
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, LANES)
ZERO = ir.Constant(VECTOR, [0.0] * LANES)
_INT32 = ir.IntType(32)
_INT_VECTOR = ir.VectorType(_INT32, LANES)

Builder = Any
Value = Any


def number(value: int) -> Value:
    return ir.Constant(INT, value)


def address(builder: Builder, base: Value, index: Value, elem_bytes: int) -> Value:
    """base + index * elem_bytes."""
    return builder.add(base, builder.mul(index, number(elem_bytes)))


def smaller(builder: Builder, a: Value, b: Value) -> Value:
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def load(builder: Builder, at: Value, kind: Any, align: int) -> Value:
    value = builder.load(builder.inttoptr(at, kind.as_pointer()))
    value.align = align
    return value


def load_floats(builder: Builder, at: Value) -> Value:
    """16 float32."""
    return load(builder, at, VECTOR, 4)


def load_splat(builder: Builder, at: Value) -> Value:
    """One float32, in all lanes."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, load(builder, at, FLOAT, 4), _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INT_VECTOR, [0] * LANES))


def load_weights(builder: Builder, at: Value, kind: Any) -> Value:
    """16 weights held as Numba's type `kind`, widened; an unsigned 16-bit one is a bfloat16."""
    if kind == types.float32:
        return load_floats(builder, at)
    if kind == types.uint16:  # the upper half of a float32
        halves = load(builder, at, ir.VectorType(ir.IntType(16), LANES), 2)
        sixteen = ir.Constant(_INT_VECTOR, [16] * LANES)
        return builder.bitcast(builder.shl(builder.zext(halves, _INT_VECTOR), sixteen), VECTOR)
    assert kind == types.int8
    bytes_ = load(builder, at, ir.VectorType(ir.IntType(8), LANES), 1)
    return builder.sitofp(builder.sext(bytes_, _INT_VECTOR), VECTOR)


def store(builder: Builder, at: Value, vector: Value) -> None:
    to = builder.inttoptr(at, vector.type.as_pointer())
    builder.store(vector, to).align = 4


def multiply_add(builder: Builder, a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
    return builder.call(function, [a, b, c])


def lane_sums(builder: Builder, vectors: list[Value]) -> Value:
    """A vector whose lane i is the sum of the lanes of the i-th of up to 16 vectors.

    Four rounds of pairs: of two vectors, the sums of neighbouring lanes, side by side.
    """
    level = vectors + [ZERO] * (LANES - len(vectors))
    even = ir.Constant(_INT_VECTOR, list(range(0, 2 * LANES, 2)))
    odd = ir.Constant(_INT_VECTOR, list(range(1, 2 * LANES, 2)))
    while len(level) > 1:
        level = [
            builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))
            for a, b in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0]


def lanes(builder: Builder, vector: Value, first: int, count: int) -> Value:
    """Some neighbouring lanes, as a shorter vector."""
    chosen = ir.Constant(ir.VectorType(_INT32, count), list(range(first, first + count)))
    return builder.shuffle_vector(vector, ir.Constant(VECTOR, ir.Undefined), chosen)


def prefetch(builder: Builder, at: Value, *, level: int) -> None:
    """Ask for a cache line, into the cache of this level; any address does no harm."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    to_read, locality, data = _INT32(0), _INT32(4 - level), _INT32(1)
    builder.call(function, [builder.inttoptr(at, byte), to_read, locality, data])


def count_up(
    builder: Builder,
    count: Value,
    step: int,
    carried: list[Value],
    body: Callable[[Value, list[Value]], list[Value]],
) -> list[Value]:
    """`for i in range(0, count, step): carried = body(i, carried)`, at least once."""
    before = builder.block
    loop, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(INT)
    index.add_incoming(number(0), before)
    phis = [builder.phi(value.type) for value in carried]
    for phi, value in zip(phis, carried, strict=True):
        phi.add_incoming(value, before)
    results = body(index, phis)
    following = builder.add(index, number(step))
    index.add_incoming(following, builder.block)
    for phi, value in zip(phis, results, strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return results


def new_function(module: Any, name: str, num_arguments: int) -> tuple[Any, Builder]:
    """A function of integers that returns nothing, and a builder in it.

    It is not inlined: its registers are all its own.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [INT] * num_arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function, ir.IRBuilder(function.append_basic_block())


def call_one_of(
    builder: Builder, choice: Value, functions: dict[int, Any], arguments: list[Value]
) -> None:
    """Call the function of that number."""
    after = builder.append_basic_block("called")
    switch = builder.switch(choice, after)
    for key, function in functions.items():
        block = builder.append_basic_block("call")
        switch.add_case(number(key), block)
        with builder.goto_block(block):
            builder.call(function, arguments)
            builder.branch(after)
    builder.position_at_end(after)
