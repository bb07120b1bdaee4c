"""The one matrix product of the fast kernels: a tile of the result that stays in registers while its sum is formed.

``y[m, f] = sum_{g, o, i} x[offset_m + g·x_group + o·x_outer + i·x_inner] w[j, f]``, where ``j`` counts the terms. The rows of the
left factor are wherever `offsets` says and may overlap, so the windows of an image need not be unfolded: a window is KH runs of
KW·C values, one in each of its rows. With steps from window to window the same product sums over the windows of all images
(weight gradients), and with offsets ``m·K`` it is an ordinary matrix product (dense layers).

A tile of R rows and V vectors of columns takes R·V registers; each term loads V vectors of `w` and R values of `x` and makes R·V
fused multiply-adds, from vectors that LLVM is told of in so many words. Nothing depends on a BLAS.
"""
from __future__ import annotations

from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from convnet.kernels.caching import compiled


def _registers() -> tuple[int, int]:
    """Return the bytes and the number of this processor's vector registers, for the features that numba compiles for."""
    named = numba.config.CPU_FEATURES  # type: ignore[attr-defined]
    if named is None:
        features = {name for name, has in llvmlite.binding.get_host_cpu_features().items() if has}
    else:
        features = {name[1:] for name in named.split(",") if name.startswith("+")}
    if "avx512f" in features:
        return 64, 32
    if "avx" in features:
        return 32, 16
    return 16, 32 if "neon" in features else 16


VECTOR_BYTES, REGISTERS = _registers()


def keep_as_it_is(builder: ir.IRBuilder) -> None:
    """Emit an instruction that does nothing, and keeps LLVM from unrolling the loop it is in.

    Unrolled, the loop would have more pointers than there are registers, and would run at half the speed.
    """
    nothing = ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), "", "", side_effect=True)
    builder.call(nothing, [], attrs=("convergent",))


def _tile(rows: int, vectors: int) -> Any:
    """Return the intrinsic that computes a tile of `rows` rows and `vectors` vectors of columns."""

    @intrinsic
    def tile(typingctx, offsets, m, last, x, x_at, groups, x_group, outer, x_outer, inner, x_inner, w, w_at, ldw,
             bias, bias_at, add, y, y_at, ldy, columns):
        lanes = VECTOR_BYTES // (x.dtype.bitwidth // 8)
        whole = types.intp
        signature = types.void(offsets, whole, whole, x, *[whole] * 7, w, whole, whole, bias, whole, whole, y, *[whole] * 3)

        def codegen(context, builder, signature, args):
            (offsets, m, last, x, x_at, groups, x_group, outer, x_outer, inner, x_inner, w, w_at, ldw,
             bias, bias_at, add, y, y_at, ldy, columns) = args
            kinds = signature.args
            number = context.get_value_type(kinds[3].dtype)
            bytes_each = VECTOR_BYTES // lanes
            vector, index = ir.VectorType(number, lanes), ir.IntType(32)

            def start(array: Any, kind: Any) -> Any:
                return context.make_array(kind)(context, builder, array).data

            def constant(value: int) -> Any:
                return ir.Constant(m.type, value)

            def vector_at(pointer: Any, at: Any) -> Any:
                return builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())

            def loaded(pointer: Any, at: Any, v: int) -> Any:
                return builder.load(vector_at(pointer, builder.add(at, constant(v * lanes))), align=bytes_each)

            def spread(value: Any) -> Any:
                nothing = ir.Constant(vector, ir.Undefined)
                first = builder.insert_element(nothing, value, ir.Constant(index, 0))
                return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, lanes), [0] * lanes))

            x_start, w_start, y_start = start(x, kinds[3]), start(w, kinds[11]), start(y, kinds[17])
            offset_start, bias_start = start(offsets, kinds[0]), start(bias, kinds[14])
            values, results = [], []
            for r in range(rows):  # rows past the last repeat it: they cost nothing more, and write the same values again
                row = builder.add(m, constant(r))
                row = builder.select(builder.icmp_signed("<", row, last), row, last)
                offset = builder.load(builder.gep(offset_start, [row]))
                values.append(builder.gep(x_start, [builder.add(x_at, offset)]))
                results.append(builder.add(y_at, builder.mul(row, ldy)))
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
            with builder.if_else(builder.icmp_signed("!=", add, constant(0))) as (adding, starting):
                with adding:
                    for r in range(rows):
                        for v in range(vectors):
                            builder.store(loaded(y_start, results[r], v), sums[r][v])
                with starting:
                    for v in range(vectors):
                        value = loaded(bias_start, bias_at, v)
                        for r in range(rows):
                            builder.store(value, sums[r][v])

            term = cgutils.alloca_once_value(builder, w_at)
            with cgutils.for_range(builder, groups) as group:
                group_at = builder.mul(group.index, x_group)
                with cgutils.for_range(builder, outer) as line:
                    line_at = builder.add(group_at, builder.mul(line.index, x_outer))
                    first = builder.load(term)
                    with cgutils.for_range(builder, inner) as step:
                        at = builder.add(line_at, builder.mul(step.index, x_inner))
                        w_row = builder.add(first, builder.mul(step.index, ldw))
                        keep_as_it_is(builder)
                        factors = [loaded(w_start, w_row, v) for v in range(vectors)]
                        for r in range(rows):
                            value = spread(builder.load(builder.gep(values[r], [at])))
                            for v in range(vectors):
                                product = builder.fmul(value, factors[v], flags=("contract",))
                                builder.store(builder.fadd(product, builder.load(sums[r][v]), flags=("contract",)), sums[r][v])
                    builder.store(builder.add(first, builder.mul(inner, ldw)), term)

            with builder.if_else(builder.icmp_signed(">=", columns, constant(vectors * lanes))) as (full, partial):
                with full:
                    for r in range(rows):
                        for v in range(vectors):
                            target = vector_at(y_start, builder.add(results[r], constant(v * lanes)))
                            builder.store(builder.load(sums[r][v]), target, align=bytes_each)
                with partial:
                    buffer = cgutils.alloca_once(builder, number, constant(vectors * lanes))
                    for r in range(rows):
                        for v in range(vectors):
                            builder.store(builder.load(sums[r][v]), vector_at(buffer, constant(v * lanes)), align=bytes_each)
                        cgutils.raw_memcpy(builder, builder.gep(y_start, [results[r]]), buffer, columns, bytes_each)
            return context.get_dummy_value()

        return signature, codegen

    return tile


# As many sums as the registers hold beside the factors; at least as many as it takes to keep the multipliers busy.
WIDE, WIDE_ROWS = (4, 6) if REGISTERS == 32 else (2, 6)
PAIR_ROWS = 8 if REGISTERS == 32 else 6
SINGLE_ROWS = 8
_wide, _pair, _single = _tile(WIDE_ROWS, WIDE), _tile(PAIR_ROWS, 2), _tile(SINGLE_ROWS, 1)


@compiled
def product(low, high, offsets, x, x_at, groups, x_group, outer, x_outer, inner, x_inner, w, w_at, ldw,
            bias, add, y, y_at, ldy, columns):
    """Write rows ``low`` to ``high`` of ``y = x w + bias``, or add ``x w`` to them.

    Parameters
    ----------
    low, high : int
    offsets : array of intp
        Where in `x` each row begins, from `x_at` on.
    x, x_at : array, int
    groups, x_group, outer, x_outer, inner, x_inner : int
        The numbers of terms, and how far apart they are in `x`; the terms of the innermost loop come first.
    w, w_at, ldw : array, int, int
        One row of columns for each term, `ldw` apart; `ldw` is at least `columns` rounded up to whole vectors.
    bias : array
        As many values as that. Not read with `add`.
    add : bool
        Whether to add to `y`, whose rows must then have room for whole vectors.
    y, y_at, ldy, columns : array, int, int, int
    """
    lanes = VECTOR_BYTES // x.itemsize
    column = 0
    while column < columns:
        left = columns - column
        if left > (WIDE - 1) * lanes:
            for m in range(low, high, WIDE_ROWS):
                _wide(offsets, m, high - 1, x, x_at, groups, x_group, outer, x_outer, inner, x_inner, w, w_at + column, ldw,
                      bias, column, add, y, y_at + column, ldy, left)
            column += WIDE * lanes
        elif left > lanes:
            for m in range(low, high, PAIR_ROWS):
                _pair(offsets, m, high - 1, x, x_at, groups, x_group, outer, x_outer, inner, x_inner, w, w_at + column, ldw,
                      bias, column, add, y, y_at + column, ldy, left)
            column += 2 * lanes
        else:
            for m in range(low, high, SINGLE_ROWS):
                _single(offsets, m, high - 1, x, x_at, groups, x_group, outer, x_outer, inner, x_inner, w, w_at + column, ldw,
                        bias, column, add, y, y_at + column, ldy, left)
            column += lanes


@intrinsic
def copy(typingctx, target, target_at, source, source_at, count):
    """Copy `count` values between 1-D arrays of one type: a call of memcpy, which beats a loop on short runs."""

    def codegen(context, builder, signature, args):
        def start(array, kind, offset):
            return builder.gep(context.make_array(kind)(context, builder, array).data, [offset])

        target, target_at, source, source_at, count = args
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        cgutils.raw_memcpy(builder, start(target, signature.args[0], target_at), start(source, signature.args[2], source_at),
                           count, size)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp, types.intp), codegen


def _adding(count: int) -> Any:
    """Return the intrinsic that adds `count` values to as many others, in 1-D arrays of one type, as one vector."""

    @intrinsic
    def add(typingctx, target, target_at, source, source_at):
        def codegen(context, builder, signature, args):
            vector = ir.VectorType(context.get_value_type(signature.args[0].dtype), count)
            size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))

            def values(array, kind, offset):
                start = context.make_array(kind)(context, builder, array).data
                return builder.bitcast(builder.gep(start, [offset]), vector.as_pointer())

            target, target_at, source, source_at = args
            to, of = values(target, signature.args[0], target_at), values(source, signature.args[2], source_at)
            builder.store(builder.fadd(builder.load(to, align=size), builder.load(of, align=size)), to, align=size)
            return context.get_dummy_value()

        return types.void(target, types.intp, source, types.intp), codegen

    return add


add_four, add_sixteen = _adding(4), _adding(16)


def padded(columns: int, itemsize: int) -> int:
    """Return `columns` rounded up to whole vectors."""
    lanes = VECTOR_BYTES // itemsize
    return -(-columns // lanes) * lanes


