"""The compiled kernels: each works on the images ``low`` to ``high`` of a batch, without Python, in one thread.

All arrays are flat views of C-contiguous, channels-last arrays; ``H, W, C`` are the image's rows, columns and channels, ``P, Q``
the rows and columns of windows, ``KH, KW`` a window's size, ``SH, SW`` its stride, ``PH, PW`` the padding, ``F`` the filters.

Convolution unfolds along the width only. For each (padded) image row ``i`` and each window column ``q`` it copies the run of
``KW·C`` values that a window sees in that row. The rows of the unfolded image that window row ``k`` touches, ``i = p·SH + k``
for all ``p``, lie next to each other (rows are grouped by ``i mod SH``), so the convolution is a sum of ``KH`` matrix products,
``Y = sum_k U[k] W[k]``, and full im2col's ``KH``-fold copies are never made. The unfolded image stays in the cache.
"""
from __future__ import annotations

import numba
import numpy as np

from convnet.kernels.blas import copy, product

compiled = numba.njit(nogil=True, cache=True)


@compiled
def unfold(x, x_at, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, u):
    """Copy the runs of one image into `u`, grouped by row modulo SH."""
    run = KW * C
    rows = (P - 1) * SH + KH
    group = -(-rows // SH)
    for i in range(rows):
        at = ((i % SH) * group + i // SH) * Q * run
        source = i - PH
        if source < 0 or source >= H:
            u[at:at + Q * run] = 0
            continue
        row_at = x_at + source * W * C
        for q in range(Q):
            j, to = q * SW - PW, at + q * run
            if j >= 0 and j + KW <= W:
                copy(u, to, x, row_at + j * C, run)
            else:
                for l in range(KW):
                    for c in range(C):
                        u[to + l * C + c] = x[row_at + (j + l) * C + c] if 0 <= j + l < W else 0


@compiled
def fold(u, x, x_at, H, W, C, KH, KW, SH, SW, PH, PW, P, Q):
    """Add the runs in `u` to one image: the adjoint of `unfold`."""
    run = KW * C
    rows = (P - 1) * SH + KH
    group = -(-rows // SH)
    for i in range(max(PH, 0), min(rows, H + PH)):
        at = ((i % SH) * group + i // SH) * Q * run
        source = i - PH
        row = x[x_at + source * W * C:x_at + (source + 1) * W * C]
        for q in range(Q):
            part = u[at + q * run:at + (q + 1) * run]
            j = q * SW - PW
            if j >= 0 and j + KW <= W:
                target = row[j * C:j * C + run]
                for z in range(run):
                    target[z] += part[z]
            else:
                for l in range(KW):
                    if 0 <= j + l < W:
                        for c in range(C):
                            row[(j + l) * C + c] += part[l * C + c]


@compiled
def conv_image(u, address, x, x_at, weight, bias, y, y_at, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F):
    """Convolution of the image at `x_at` into the map at `y_at`; `bias` is empty for none."""
    run, group = KW * C, -(-((P - 1) * SH + KH) // SH)
    if len(bias):
        for window in range(P * Q):
            copy(y, y_at + window * F, bias, 0, F)
    unfold(x, x_at, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, u)
    for k in range(KH):
        u_at = ((k % SH) * group + k // SH) * Q * run
        product(address, 0, 0, P * Q, F, run, u, u_at, run, weight, k * run * F, F, len(bias) > 0 or k > 0, y, y_at, F)


@compiled
def conv(low, high, u, address, x, weight, bias, y, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F):
    """Convolution."""
    for n in range(low, high):
        conv_image(u, address, x, n * H * W * C, weight, bias, y, n * P * Q * F, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F)


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
    low, high, u, address, x, weight, bias, y, positions, mask, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F,
    m_at, LH, LW, TH, TW, R, S,
):
    """Convolution, then the maximum over windows (LH, LW) with stride (TH, TW), R down and S across, then ReLU.

    The convolution's map lies in `u` from `m_at` on.
    """
    for n in range(low, high):
        conv_image(u, address, x, n * H * W * C, weight, bias, u, m_at, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F)
        at = n * R * S * F
        max_pool_image(u, m_at, y, positions, at, P, Q, F, LH, LW, TH, TW, R, S)
        values, flags = y[at:at + R * S * F], mask[at:at + R * S * F]
        for z in range(R * S * F):
            v = values[z]
            flags[z] = v > 0
            values[z] = y.dtype.type(0) if v <= 0 else v


@compiled
def conv_gather(
    low, high, u, address, t, weight, bias, positions, mask, offsets, y, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F,
    m_at, TH, TW, R, S,
):
    """Convolution of a tangent, read at the position of each window where `mask` is true; 0 elsewhere."""
    for n in range(low, high):
        conv_image(u, address, t, n * H * W * C, weight, bias, u, m_at, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F)
        for r in range(R):
            for s in range(S):
                at = ((n * R + r) * S + s) * F
                first = m_at + (r * TH * Q + s * TW) * F
                for f in range(F):
                    v = u[first + offsets[positions[at + f]] + f]
                    y[at + f] = v if mask[at + f] else y.dtype.type(0)


@compiled
def conv_adjoint(low, high, u, address, b, weight_t, x, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F):
    """Adjoint of the convolution; `weight_t` holds the filters as (KH, F, KW, C)."""
    run, rows = KW * C, (P - 1) * SH + KH
    group = -(-rows // SH)
    for n in range(low, high):
        u[:SH * group * Q * run] = 0
        for k in range(KH):
            u_at = ((k % SH) * group + k // SH) * Q * run
            product(address, 0, 0, P * Q, run, F, b, n * P * Q * F, F, weight_t, k * F * run, run, True, u, u_at, run)
        x[n * H * W * C:(n + 1) * H * W * C] = 0
        fold(u, x, n * H * W * C, H, W, C, KH, KW, SH, SW, PH, PW, P, Q)


@compiled
def conv_weight_gradient(low, high, u, address, a, b, gradient, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F):
    """Write the sum over images and windows of window times `b` to `gradient`, (KH, KW, C, F)."""
    run, group = KW * C, -(-((P - 1) * SH + KH) // SH)
    gradient[:] = 0
    for n in range(low, high):
        unfold(a, n * H * W * C, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, u)
        for k in range(KH):
            u_at = ((k % SH) * group + k // SH) * Q * run
            product(address, 1, 0, run, F, P * Q, u, u_at, run, b, n * P * Q * F, F, True, gradient, k * run * F, F)


@compiled
def dense(low, high, u, address, x, weight, weight_t, bias, y, M, K, N):
    """Columns ``low`` to ``high`` of ``y = x weight + bias``; `bias` is empty for none; with `weight_t`, weight is (N, K)."""
    if len(bias):
        for m in range(M):
            y[m * N + low:m * N + high] = bias[low:high]
    at, ldw = (low * K, K) if weight_t else (low, N)
    product(address, 0, weight_t, M, high - low, K, x, 0, K, weight, at, ldw, len(bias) > 0, y, low, N)


@compiled
def dense_transposed(low, high, u, address, a, b, y, M, K, N):
    """Rows ``low`` to ``high`` of ``y = a^T b`` with `a` stored as (K, M)."""
    product(address, 1, 0, high - low, N, K, a, low, M, b, 0, N, False, y, low * N, N)


@compiled
def transpose(low, high, u, w, w_t, outer, rows, columns, reverse):
    """Matrices ``low`` to ``high`` of a stack, each (rows, columns), transposed; with `reverse` the stack is turned round."""
    for o in range(low, high):
        at = o * rows * columns
        to = (outer - 1 - o if reverse else o) * rows * columns
        for r0 in range(0, rows, 16):  # in tiles that stay in the cache
            for c0 in range(0, columns, 16):
                for r in range(r0, min(r0 + 16, rows)):
                    for c in range(c0, min(c0 + 16, columns)):
                        w_t[to + c * rows + r] = w[at + r * columns + c]


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
