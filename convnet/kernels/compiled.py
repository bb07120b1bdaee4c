"""The compiled kernels: each works on the images ``low`` to ``high`` of a batch, without Python, in one thread.

All arrays are flat views of C-contiguous, channels-last arrays; ``H, W, C`` are the image's rows, columns and channels, ``P, Q``
the rows and columns of windows, ``KH, KW`` a window's size, ``SH, SW`` its stride, ``PH, PW`` the padding, ``F`` the filters.
``u`` is the thread's own room. The right factor of a product has rows of whole vectors, ``FV`` values for `F` columns.

Convolution is one matrix product whose left factor is the image itself: a window is KH runs of KW·C values, ``W·C`` apart
(`tile`). Only padding is copied, for as many images at a time as make a product worthwhile.
"""
from __future__ import annotations

import numba
import numpy as np

from convnet.kernels.tile import add_four, copy, product

compiled = numba.njit(nogil=True, cache=True)


@compiled
def pad(images, x, x_at, H, W, C, PH, PW, u):
    """Copy images into the middle of larger ones in `u`, whose borders stay as they are."""
    row = (W + 2 * PW) * C
    for g in range(images):
        for i in range(H):
            copy(u, (g * (H + 2 * PH) + PH + i) * row + PW * C, x, x_at + (g * H + i) * W * C, W * C)


@compiled
def conv_images(u, images, x, x_at, offsets, weight, bias, y, y_at, H, W, C, KH, KW, PH, PW, windows, F, FV):
    """Convolution of `images` images from `x_at` on into maps from `y_at` on; `offsets` is where their windows begin."""
    source, source_at, row = x, x_at, W * C
    if PH or PW:
        pad(images, x, x_at, H, W, C, PH, PW, u)
        source, source_at, row = u, 0, (W + 2 * PW) * C
    product(0, images * windows, offsets, source, source_at, 1, 0, KH, row, KW * C, 1, weight, 0, FV, bias, False, y, y_at, F, F)


@compiled
def conv(low, high, u, group, x, offsets, weight, bias, y, H, W, C, KH, KW, PH, PW, windows, F, FV):
    """Convolution, `group` images at a time."""
    u[:group * (H + 2 * PH) * (W + 2 * PW) * C if PH or PW else 0] = 0
    for n in range(low, high, group):
        conv_images(u, min(group, high - n), x, n * H * W * C, offsets, weight, bias, y, n * windows * F, H, W, C, KH, KW, PH, PW,
                    windows, F, FV)


@compiled
def max_pool_image(x, x_at, y, positions, y_at, H, W, C, KH, KW, SH, SW, P, Q):
    """Maximum and its position in each window of the map at `x_at`; the first one wins, and a NaN wins over numbers."""
    for p in range(P):
        for q in range(Q):
            at = y_at + (p * Q + q) * C
            best, where = y[at:at + C], positions[at:at + C]
            first = x_at + (p * SH * W + q * SW) * C
            cell = x[first:first + C]
            for c in range(C):
                best[c] = cell[c]
                where[c] = 0
            for k in range(KH):
                for l in range(KW):
                    start = first + (k * W + l) * C
                    cell = x[start:start + C]
                    place = k * KW + l
                    for c in range(C):
                        v, m = cell[c], best[c]
                        better = (v > m) | ((v != v) & (m == m))
                        best[c] = v if better else m
                        where[c] = place if better else where[c]


@compiled
def conv_relu_max_pool(
    low, high, u, group, x, offsets, weight, bias, y, positions, mask, H, W, C, KH, KW, PH, PW, windows, F, FV,
    m_at, Q, LH, LW, TH, TW, R, S,
):
    """Convolution, then the maximum over windows (LH, LW) with stride (TH, TW), R down and S across, then ReLU.

    The convolution's maps, Q values across, lie in `u` from `m_at` on.
    """
    u[:m_at] = 0
    for first in range(low, high, group):
        images = min(group, high - first)
        conv_images(u, images, x, first * H * W * C, offsets, weight, bias, u, m_at, H, W, C, KH, KW, PH, PW, windows, F, FV)
        for n in range(first, first + images):
            at = n * R * S * F
            max_pool_image(u, m_at + (n - first) * windows * F, y, positions, at, windows // Q, Q, F, LH, LW, TH, TW, R, S)
            values, flags = y[at:at + R * S * F], mask[at:at + R * S * F]
            for z in range(R * S * F):
                v = values[z]
                flags[z] = v > 0
                values[z] = y.dtype.type(0) if v <= 0 else v


@compiled
def conv_gather(
    low, high, u, group, t, offsets, weight, bias, positions, mask, cells, y, H, W, C, KH, KW, PH, PW, windows, F, FV,
    m_at, Q, TH, TW, R, S,
):
    """Convolution of a tangent, read at the position of each window where `mask` is true; 0 elsewhere."""
    u[:m_at] = 0
    for n0 in range(low, high, group):
        images = min(group, high - n0)
        conv_images(u, images, t, n0 * H * W * C, offsets, weight, bias, u, m_at, H, W, C, KH, KW, PH, PW, windows, F, FV)
        for n in range(n0, n0 + images):
            for r in range(R):
                for s in range(S):
                    at = ((n * R + r) * S + s) * F
                    first = m_at + ((n - n0) * windows + r * TH * Q + s * TW) * F
                    for f in range(F):
                        v = u[first + cells[positions[at + f]] + f]
                        y[at + f] = v if mask[at + f] else y.dtype.type(0)


@compiled
def conv_adjoint(low, high, u, b, offsets, weight_t, zeros, x, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F, run, KV, at):
    """Adjoint of the convolution: all windows' values, then each run of them added where it came from.

    `weight_t` holds the filters as (F, KH, run), in rows of KV values, with zeros after the KW·C values of a run. The padded
    image lies in `u` from `at` on. Runs next to each other overlap; taking those that do not together, no sum waits for another.
    """
    row = (W + 2 * PW) * C
    apart = -(-run // (SW * C))
    for n in range(low, high):
        product(0, P * Q, offsets, b, n * P * Q * F, 1, 0, 1, 0, F, 1, weight_t, 0, KV, zeros, False, u, 0, KV, KV)
        u[at:at + (H + 2 * PH) * row + run] = 0
        for p in range(P):
            for k in range(KH):
                for first in range(min(apart, Q)):
                    for q in range(first, Q, apart):
                        to, of = at + (p * SH + k) * row + q * SW * C, (p * Q + q) * KV + k * run
                        for z in range(0, run, 4):
                            add_four(u, to + z, u, of + z)
        for i in range(H):
            copy(x, (n * H + i) * W * C, u, at + (PH + i) * row + PW * C, W * C)


@compiled
def conv_weight_gradient(low, high, u, group, a, offsets, b, zeros, gradient, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, FV):
    """Write the sum over images and windows of window times `b` to `gradient`, (KH·KW·C, FV)."""
    row = (W + 2 * PW) * C
    padded = PH > 0 or PW > 0
    u[:group * (H + 2 * PH) * row if padded else 0] = 0
    for n in range(low, high, group):
        images = min(group, high - n)
        source, source_at = a, n * H * W * C
        if padded:
            pad(images, a, source_at, H, W, C, PH, PW, u)
            source, source_at = u, 0
        product(0, KH * KW * C, offsets, source, source_at, images, (H + 2 * PH) * row, P, SH * row, Q, SW * C,
                b, n * P * Q * FV, FV, zeros, n > low, gradient, 0, FV, FV)


@compiled
def dense(low, high, u, x, offsets, weight, bias, y, M, K, N, block, NV):
    """Blocks ``low`` to ``high`` of `block` columns of ``y = x weight + bias``."""
    for at in range(low * block, min(high * block, N), block):
        product(0, M, offsets, x, 0, 1, 0, 1, 0, K, 1, weight, at, NV, bias[at:], False, y, at, N, min(block, N - at))


@compiled
def dense_adjoint(low, high, u, b_t, offsets, weight, zeros, y, M, K, N, MV):
    """Columns ``low`` to ``high`` of ``y = b weight^T`` with `weight` stored as (N, K) and `b` as (K, M) in rows of MV values."""
    for n0 in range(low, high, 64):
        n1 = min(n0 + 64, high)
        product(n0, n1, offsets, weight, 0, 1, 0, 1, 0, K, 1, b_t, 0, MV, zeros, False, u, -n0 * MV, MV, MV)
        for m in range(M):
            for n in range(n0, n1):
                y[m * N + n] = u[(n - n0) * MV + m]


@compiled
def dense_transposed(low, high, u, a, offsets, b, zeros, y, M, K, N, NV):
    """Rows ``low`` to ``high`` of ``y = a^T b`` with `a` stored as (K, M) and `b` as (K, N) in rows of NV values."""
    product(low, high, offsets, a, 0, 1, 0, 1, 0, K, M, b, 0, NV, zeros, False, y, 0, N, N)


@compiled
def transpose(low, high, u, w, w_t, outer, rows, columns, ldt, reverse):
    """Matrices ``low`` to ``high``, each (rows, columns), transposed into rows of `ldt`; `reverse` turns the stack round."""
    for o in range(low, high):
        at = o * rows * columns
        to = (outer - 1 - o if reverse else o) * columns * ldt
        for r0 in range(0, rows, 16):  # in tiles that stay in the cache
            for c0 in range(0, columns, 16):
                for r in range(r0, min(r0 + 16, rows)):
                    for c in range(c0, min(c0 + 16, columns)):
                        w_t[to + c * ldt + r] = w[at + r * columns + c]


@compiled
def max_pool(low, high, u, x, y, positions, H, W, C, KH, KW, SH, SW, P, Q):
    """Each window's maximum and its position."""
    for n in range(low, high):
        max_pool_image(x, n * H * W * C, y, positions, n * P * Q * C, H, W, C, KH, KW, SH, SW, P, Q)


@compiled
def max_pool_scatter(low, high, u, b, positions, offsets, x, H, W, C, SH, SW, P, Q):
    """Add each `b` at the position of its window; `offsets` is where the cells of a window lie from its corner."""
    for n in range(low, high):
        x[n * H * W * C:(n + 1) * H * W * C] = 0
        for p in range(P):
            for q in range(Q):
                at = ((n * P + p) * Q + q) * C
                first = ((n * H + p * SH) * W + q * SW) * C
                for c in range(C):
                    x[first + offsets[positions[at + c]] + c] += b[at + c]


@compiled
def max_pool_gather(low, high, u, t, positions, offsets, y, H, W, C, SH, SW, P, Q):
    """Read the cell of `t` at the position of each window."""
    for n in range(low, high):
        for p in range(P):
            for q in range(Q):
                at = ((n * P + p) * Q + q) * C
                first = ((n * H + p * SH) * W + q * SW) * C
                for c in range(C):
                    y[at + c] = t[first + offsets[positions[at + c]] + c]


@compiled
def mean_pool(low, high, u, x, y, H, W, C, KH, KW, SH, SW, P, Q):
    """Each window's mean."""
    share = x.dtype.type(1.0 / (KH * KW))
    for n in range(low, high):
        for p in range(P):
            for q in range(Q):
                at = ((n * P + p) * Q + q) * C
                total = y[at:at + C]
                total[:] = 0
                for k in range(KH):
                    for l in range(KW):
                        start = ((n * H + p * SH + k) * W + q * SW + l) * C
                        cell = x[start:start + C]
                        for c in range(C):
                            total[c] += cell[c]
                for c in range(C):
                    total[c] *= share


@compiled
def mean_pool_adjoint(low, high, u, b, x, H, W, C, KH, KW, SH, SW, P, Q):
    """Spread each `b` evenly over its window."""
    share = x.dtype.type(1.0 / (KH * KW))
    for n in range(low, high):
        x[n * H * W * C:(n + 1) * H * W * C] = 0
        for p in range(P):
            for q in range(Q):
                at = ((n * P + p) * Q + q) * C
                part = b[at:at + C]
                for k in range(KH):
                    for l in range(KW):
                        start = ((n * H + p * SH + k) * W + q * SW + l) * C
                        cell = x[start:start + C]
                        for c in range(C):
                            cell[c] += share * part[c]


@compiled
def relu(low, high, u, x, y, mask):
    """``max(x, 0)`` and where `x` is positive; a NaN stays."""
    source, target, flag = x[low:high], y[low:high], mask[low:high]
    for z in range(high - low):
        v = source[z]
        flag[z] = v > 0
        target[z] = x.dtype.type(0) if v <= 0 else v


@compiled
def masked(low, high, u, b, mask, y):
    """`b` where `mask` is true, 0 elsewhere."""
    source, flag, target = b[low:high], mask[low:high], y[low:high]
    for z in range(high - low):
        target[z] = source[z] if flag[z] else b.dtype.type(0)


@compiled
def combination(low, high, u, c_0, a_0, c_1, a_1, y):
    """``c_0 a_0 + c_1 a_1``; `y` may be one of them."""
    first, second, target = a_0[low:high], a_1[low:high], y[low:high]
    for z in range(high - low):
        target[z] = c_0 * first[z] + c_1 * second[z]


@compiled
def row_sum(low, high, u, b, y, rows, C):
    """Columns ``low`` to ``high`` of the sum of the rows of `b`, (rows, C), added up in the order of the rows."""
    y[low:high] = 0
    for r in range(rows):
        part, total = b[r * C + low:r * C + high], y[low:high]
        for c in range(high - low):
            total[c] += part[c]


FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
