"""Matrix products from inside compiled kernels.

The compiled kernels call the BLAS that SciPy carries, by its address (``scipy.linalg.cython_blas``): from there a product takes
a fraction of a microsecond, needs no Python, and can add to what is in the result.

OpenBLAS has fast kernels for products with at most a million multiplications, which do without packing. `product` cuts every
product into blocks of that size: on an AVX-512 machine they run at 250 GFLOP/s where the usual path reaches 120 to 220.
"""
from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

# The largest product of dimensions that OpenBLAS computes without packing.
SMALL = 1_000_000


ADDRESS = {
    np.dtype(np.float32): get_cython_function_address("scipy.linalg.cython_blas", "sgemm"),
    np.dtype(np.float64): get_cython_function_address("scipy.linalg.cython_blas", "dgemm"),
}


@intrinsic
def _gemm(typingctx, address, a_t, b_t, m, n, k, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc):
    """``C = A B + beta C`` for row-major blocks inside 1-D arrays; with `a_t` A is stored as (k, m), with `b_t` B as (n, k).

    Fortran's BLAS is column-major, where the same memory is ``C^T = B^T A^T``.
    """
    real = a.dtype
    signature = types.void(
        types.intp, types.intp, types.intp, types.intp, types.intp, types.intp, a, types.intp, types.intp,
        b, types.intp, types.intp, real, c, types.intp, types.intp,
    )

    def codegen(context, builder, signature, args):
        address, a_t, b_t, m, n, k, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc = args
        number = context.get_value_type(real)
        int32, char = ir.IntType(32), ir.IntType(8)

        def stored(value, kind):
            slot = cgutils.alloca_once(builder, kind)
            builder.store(value, slot)
            return slot

        def integer(value):
            return stored(builder.trunc(value, int32), int32)

        def start(array, kind, offset):
            return builder.gep(context.make_array(kind)(context, builder, array).data, [offset])

        def letter(flag):
            is_set = builder.icmp_signed("!=", flag, ir.Constant(flag.type, 0))
            return stored(builder.select(is_set, ir.Constant(char, ord("T")), ir.Constant(char, ord("N"))), char)

        pointers = [kind.as_pointer() for kind in (char, char, int32, int32, int32, number, number, int32, number, int32,
                                                   number, number, int32)]
        function = builder.inttoptr(address, ir.FunctionType(ir.VoidType(), pointers).as_pointer())
        kinds = signature.args
        builder.call(function, [
            letter(b_t), letter(a_t), integer(n), integer(m), integer(k),
            stored(ir.Constant(number, 1.0), number), start(b, kinds[9], b_at), integer(ldb),
            start(a, kinds[6], a_at), integer(lda), stored(beta, number), start(c, kinds[13], c_at), integer(ldc),
        ])
        return context.get_dummy_value()

    return signature, codegen


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


@numba.njit(nogil=True, cache=True)
def product(address, a_t, b_t, m, n, k, a, a_at, lda, b, b_at, ldb, add, c, c_at, ldc):
    """Write ``C = A B``, or add it if `add`, for row-major (m, k), (k, n) and (m, n) blocks inside 1-D arrays.

    ``x_at`` is where a block starts and ``ldx`` how far apart its rows are. With `a_t`, A is stored as (k, m); with `b_t`, B as
    (n, k).
    """
    n_block = _even(n, 128)
    if a_t:
        m_block = _even(m, 256)
        k_block = _even(k, max(SMALL // (m_block * n_block), 8))
    else:
        k_block = _even(k, 256)
        m_block = _even(m, max(SMALL // (k_block * n_block), 8))
    for k0 in range(0, k, k_block):
        beta = a.dtype.type(1 if add or k0 > 0 else 0)
        kb = min(k_block, k - k0)
        for m0 in range(0, m, m_block):
            mb = min(m_block, m - m0)
            a0 = a_at + (k0 * lda + m0 if a_t else m0 * lda + k0)
            for n0 in range(0, n, n_block):
                nb = min(n_block, n - n0)
                b0 = b_at + (n0 * ldb + k0 if b_t else k0 * ldb + n0)
                _gemm(address, a_t, b_t, mb, nb, kb, a, a0, lda, b, b0, ldb, beta, c, c_at + m0 * ldc + n0, ldc)


@numba.njit(nogil=True, cache=True)
def _even(total, most):
    """Return the size of equal blocks of at most `most`."""
    blocks = -(-total // most)
    return -(-total // blocks)
