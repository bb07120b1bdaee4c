"""The compiled kernels: each works on the images ``low`` to ``high`` of a batch, without Python, in one thread (`sharing`).

All arrays are flat views of C-contiguous, channels-last arrays; ``H, W, C`` are the image's rows, columns and channels, ``P, Q``
the rows and columns of windows, ``KH, KW`` a window's size, ``SH, SW`` its stride, ``PH, PW`` the padding, ``F`` the filters.
``u`` is the part's own room. The right factor of a product has rows of whole vectors, ``FV`` values for `F` columns.

Convolution is one matrix product whose left factor is the image itself: a window is KH runs of KW·C values, ``W·C`` apart
(`tile`). Only padding is copied, for as many images at a time as make a product worthwhile.
"""
from __future__ import annotations

import numba
import numpy as np

from convnet.kernels.sharing import shared
from convnet.kernels.tile import add_four, add_sixteen, copy, product

# Not cached themselves: they hold code of `tile`, a change of which numba would not see. The kernels, which hold them, are.
compiled = numba.njit(nogil=True)


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


@shared
def conv(part, low, high, u, group, x, offsets, weight, bias, y, H, W, C, KH, KW, PH, PW, windows, F, FV):
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
                    place = positions.dtype.type(k * KW + l)
                    for c in range(C):
                        v, m = cell[c], best[c]
                        better = (v > m) | ((v != v) & (m == m))
                        best[c] = v if better else m
                        where[c] = place if better else where[c]


@compiled
def scatter_image(b, positions, b_at, x, x_at, W, C, KH, KW, SH, SW, P, Q):
    """Add each `b` to the map at `x_at`, at the position of its window; to none if that is no cell of the window."""
    for p in range(P):
        for q in range(Q):
            at = b_at + (p * Q + q) * C
            part, where = b[at:at + C], positions[at:at + C]
            for k in range(KH):
                for l in range(KW):
                    start = x_at + ((p * SH + k) * W + q * SW + l) * C
                    cell = x[start:start + C]
                    place = positions.dtype.type(k * KW + l)
                    for c in range(C):
                        cell[c] += part[c] if where[c] == place else b.dtype.type(0)


@compiled
def gather_image(t, t_at, positions, cells, y, y_at, W, C, SH, SW, P, Q):
    """Read the cell of the map at `t_at` at the position of each window; 0 where that is no cell of the window.

    `cells` is where the cells of a window lie from its corner, and any number behind.
    """
    none = len(cells) - 1
    for p in range(P):
        for q in range(Q):
            at, first = y_at + (p * Q + q) * C, t_at + (p * SH * W + q * SW) * C
            for c in range(C):
                place = positions[at + c]
                value = t[first + cells[place] + c]
                y[at + c] = value if place < none else y.dtype.type(0)


@shared
def conv_relu_max_pool(
    part, low, high, u, group, x, offsets, weight, bias, y, positions, H, W, C, KH, KW, PH, PW, windows, F, FV,
    m_at, Q, LH, LW, TH, TW, R, S,
):
    """Convolution, then the maximum over windows (LH, LW) with stride (TH, TW), R down and S across, then ReLU.

    The convolution's maps, Q values across, lie in `u` from `m_at` on. The position is LH·LW, no cell, where the value is not
    positive.
    """
    u[:m_at] = 0
    for first in range(low, high, group):
        images = min(group, high - first)
        conv_images(u, images, x, first * H * W * C, offsets, weight, bias, u, m_at, H, W, C, KH, KW, PH, PW, windows, F, FV)
        for n in range(first, first + images):
            at = n * R * S * F
            max_pool_image(u, m_at + (n - first) * windows * F, y, positions, at, windows // Q, Q, F, LH, LW, TH, TW, R, S)
            values, where = y[at:at + R * S * F], positions[at:at + R * S * F]
            for z in range(R * S * F):
                v = values[z]
                where[z] = where[z] if v > 0 else positions.dtype.type(LH * LW)
                values[z] = y.dtype.type(0) if v <= 0 else v


@shared
def conv_gather(
    part, low, high, u, group, t, offsets, weight, bias, positions, cells, y, H, W, C, KH, KW, PH, PW, windows, F, FV,
    m_at, Q, TH, TW, R, S,
):
    """Convolution of a tangent, read at the position of each window."""
    u[:m_at] = 0
    for first in range(low, high, group):
        images = min(group, high - first)
        conv_images(u, images, t, first * H * W * C, offsets, weight, bias, u, m_at, H, W, C, KH, KW, PH, PW, windows, F, FV)
        for n in range(first, first + images):
            gather_image(u, m_at + (n - first) * windows * F, positions, cells, y, n * R * S * F, Q, F, TH, TW, R, S)


@compiled
def add_rows(b, low, high, C, total):
    """Add the rows ``low`` to ``high`` of `b`, C values each, to `total`."""
    for r in range(low, high - 3, 4):
        rows = b[r * C:(r + 4) * C]
        for c in range(C):
            total[c] += (rows[c] + rows[C + c]) + (rows[2 * C + c] + rows[3 * C + c])
    for r in range(high - (high - low) % 4, high):
        for c in range(C):
            total[c] += b[r * C + c]


@shared
def conv_adjoint(
    part, low, high, u, b, offsets, weight_t, zeros, x, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F, values, run, KV, at,
):
    """Adjoint of the convolution: all windows' values, then each run of KW·C `values` added where it came from.

    `weight_t` holds the filters as (F, KH, run), in rows of KV values, with zeros after the values of a run. The padded
    image lies in `u` from `at` on, and `F` sums at its end. Runs next to each other overlap; taking those that do not together,
    no sum waits for another.
    """
    row = (W + 2 * PW) * C
    apart = -(-run // (SW * C))
    total = u[len(u) - F:]
    for n in range(low, high):
        product(0, P * Q, offsets, b, n * P * Q * F, 1, 0, 1, 0, F, 1, weight_t, 0, KV, zeros, False, u, 0, KV, KV)
        if values < run:
            # Zero times infinity is not zero, but infinities are rare, and writing zeros takes long.
            total[:] = 0
            add_rows(b, n * P * Q, (n + 1) * P * Q, F, total)
            if not np.isfinite(total).all():
                for k in range(P * Q * KH):
                    u[k // KH * KV + k % KH * run + values:k // KH * KV + (k % KH + 1) * run] = 0
        u[at:at + (H + 2 * PH) * row + run] = 0
        for p in range(P):
            for k in range(KH):
                for first in range(min(apart, Q)):
                    for q in range(first, Q, apart):
                        to, of = at + (p * SH + k) * row + q * SW * C, (p * Q + q) * KV + k * run
                        for z in range(0, run - 15, 16):
                            add_sixteen(u, to + z, u, of + z)
                        for z in range(run // 16 * 16, run, 4):
                            add_four(u, to + z, u, of + z)
        for i in range(H):
            copy(x, (n * H + i) * W * C, u, at + (PH + i) * row + PW * C, W * C)


@shared
def conv_weight_gradient(part, low, high, u, group, a, offsets, b, zeros, gradients, H, W, C, KH, KW, SH, SW, PH, PW, P, Q, FV):
    """Write the sums over images and windows of window times `b`, and of `b`, to the part's own of `gradients`.

    They are (KH·KW·C + 1, FV) each; the last row is the sum of `b`.
    """
    values = KH * KW * C
    gradient = gradients[part * (values + 1) * FV:(part + 1) * (values + 1) * FV]
    total = gradient[values * FV:]
    total[:] = 0
    row = (W + 2 * PW) * C
    padded = PH > 0 or PW > 0
    u[:group * (H + 2 * PH) * row if padded else 0] = 0
    for n in range(low, high, group):
        images = min(group, high - n)
        source, source_at = a, n * H * W * C
        if padded:
            pad(images, a, source_at, H, W, C, PH, PW, u)
            source, source_at = u, 0
        product(0, values, offsets, source, source_at, images, (H + 2 * PH) * row, P, SH * row, Q, SW * C,
                b, n * P * Q * FV, FV, zeros, n > low, gradient, 0, FV, FV)
        add_rows(b, n * P * Q, (n + images) * P * Q, FV, total)


@shared
def dense(part, low, high, u, x, offsets, weight, bias, y, M, K, N, block, NV):
    """Blocks ``low`` to ``high`` of `block` columns of ``y = x weight + bias``."""
    for at in range(low * block, min(high * block, N), block):
        product(0, M, offsets, x, 0, 1, 0, 1, 0, K, 1, weight, at, NV, bias[at:], False, y, at, N, min(block, N - at))


@shared
def dense_adjoint(part, low, high, u, b_t, offsets, weight, zeros, y, M, K, N, MV):
    """Columns ``low`` to ``high`` of ``y = b weight^T`` with `weight` stored as (N, K) and `b` as (K, M) in rows of MV values."""
    for n0 in range(low, high, 16):
        n1 = min(n0 + 16, high)
        product(n0, n1, offsets, weight, 0, 1, 0, 1, 0, K, 1, b_t, 0, MV, zeros, False, u, -n0 * MV, MV, MV)
        for m in range(M):
            for n in range(n0, n1):
                y[m * N + n] = u[(n - n0) * MV + m]


@shared
def dense_transposed(part, low, high, u, a, offsets, b, zeros, y, M, K, N, NV):
    """Rows ``low`` to ``high`` of ``y = a^T b`` with `a` stored as (K, M) and `b` as (K, N) in rows of NV values."""
    product(low, high, offsets, a, 0, 1, 0, 1, 0, K, M, b, 0, NV, zeros, False, y, 0, N, N)


@shared
def transpose(part, low, high, u, w, w_t, outer, rows, columns, ldt, reverse):
    """Matrices ``low`` to ``high``, each (rows, columns), transposed into rows of `ldt`; `reverse` turns the stack round."""
    for o in range(low, high):
        at = o * rows * columns
        to = (outer - 1 - o if reverse else o) * columns * ldt
        for r0 in range(0, rows, 16):  # in tiles that stay in the cache
            for c0 in range(0, columns, 16):
                for r in range(r0, min(r0 + 16, rows)):
                    for c in range(c0, min(c0 + 16, columns)):
                        w_t[to + c * ldt + r] = w[at + r * columns + c]


@shared
def max_pool(part, low, high, u, x, y, positions, H, W, C, KH, KW, SH, SW, P, Q):
    """Each window's maximum and its position."""
    for n in range(low, high):
        max_pool_image(x, n * H * W * C, y, positions, n * P * Q * C, H, W, C, KH, KW, SH, SW, P, Q)


@shared
def max_pool_scatter(part, low, high, u, b, positions, x, H, W, C, KH, KW, SH, SW, P, Q):
    """Add each `b` at the position of its window."""
    for n in range(low, high):
        x[n * H * W * C:(n + 1) * H * W * C] = 0
        scatter_image(b, positions, n * P * Q * C, x, n * H * W * C, W, C, KH, KW, SH, SW, P, Q)


@shared
def max_pool_gather(part, low, high, u, t, positions, cells, y, H, W, C, SH, SW, P, Q):
    """Read the cell of `t` at the position of each window."""
    for n in range(low, high):
        gather_image(t, n * H * W * C, positions, cells, y, n * P * Q * C, W, C, SH, SW, P, Q)


@shared
def mean_pool(part, low, high, u, x, y, H, W, C, KH, KW, SH, SW, P, Q):
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


@shared
def mean_pool_adjoint(part, low, high, u, b, x, H, W, C, KH, KW, SH, SW, P, Q):
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


@shared
def relu(part, low, high, u, x, y, mask):
    """``max(x, 0)`` and where `x` is positive; a NaN stays."""
    source, target, flag = x[low:high], y[low:high], mask[low:high]
    for z in range(high - low):
        v = source[z]
        flag[z] = v > 0
        target[z] = x.dtype.type(0) if v <= 0 else v


@shared
def masked(part, low, high, u, b, mask, y):
    """`b` where `mask` is true, 0 elsewhere."""
    source, flag, target = b[low:high], mask[low:high], y[low:high]
    for z in range(high - low):
        target[z] = source[z] if flag[z] else b.dtype.type(0)


@shared
def combination(part, low, high, u, c_0, a_0, c_1, a_1, y):
    """``c_0 a_0 + c_1 a_1``; `y` may be one of them."""
    first, second, target = a_0[low:high], a_1[low:high], y[low:high]
    for z in range(high - low):
        target[z] = c_0 * first[z] + c_1 * second[z]


@shared
def row_sum(part, low, high, u, b, sums, C):
    """Write the sum of the rows ``low`` to ``high`` of `b`, C values each, to the part's own of `sums`."""
    total = sums[part * C:(part + 1) * C]
    total[:] = 0
    add_rows(b, low, high, C, total)


@shared
def row_dot(part, low, high, u, a, b, mean, sums, C):
    """Write the sum of ``(a - mean) (b - mean)`` over the rows ``low`` to ``high`` to the part's own of `sums`."""
    total = sums[part * C:(part + 1) * C]
    total[:] = 0
    for r in range(low, high - 3, 4):
        first, second = a[r * C:(r + 4) * C], b[r * C:(r + 4) * C]
        for c in range(C):
            m = mean[c]
            total[c] += ((first[c] - m) * (second[c] - m) + (first[C + c] - m) * (second[C + c] - m)) + (
                (first[2 * C + c] - m) * (second[2 * C + c] - m) + (first[3 * C + c] - m) * (second[3 * C + c] - m))
    for r in range(high - (high - low) % 4, high):
        for c in range(C):
            total[c] += (a[r * C + c] - mean[c]) * (b[r * C + c] - mean[c])


@shared
def row_affine(part, low, high, u, a, shift, scale, b, other, offset, y, C):
    """Rows ``low`` to ``high`` of ``y = scale (a - shift) + other b + offset``; `b` is empty for none."""
    for r in range(low, high):
        values, result = a[r * C:(r + 1) * C], y[r * C:(r + 1) * C]
        if len(b):
            beside = b[r * C:(r + 1) * C]
            for c in range(C):
                result[c] = scale[c] * (values[c] - shift[c]) + (other[c] * beside[c] + offset[c])
        else:
            for c in range(C):
                result[c] = scale[c] * (values[c] - shift[c]) + offset[c]


FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
