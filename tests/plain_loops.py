"""What the array kernels compute, as plain Python loops over single numbers: slow, and hard to get wrong."""
import numpy as np


def windows(height, width, size, stride, padding=(0, 0)):
    """Yield (p, q, top, left) of every window that lies inside the padded image."""
    for p, top in enumerate(range(-padding[0], height + padding[0] - size[0] + 1, stride[0])):
        for q, left in enumerate(range(-padding[1], width + padding[1] - size[1] + 1, stride[1])):
            yield p, q, top, left


def output_counts(height, width, size, stride, padding=(0, 0)):
    """Return the numbers of windows, counted."""
    places = [(p, q) for p, q, _, _ in windows(height, width, size, stride, padding)]
    return max(p for p, _ in places) + 1, max(q for _, q in places) + 1


def conv(x, weight, bias, stride, padding):
    """Convolution (cross-correlation) with zero padding."""
    n, height, width, channels = x.shape
    rows, columns, _, filters = weight.shape
    y = np.zeros((n, *output_counts(height, width, (rows, columns), stride, padding), filters))
    for i in range(n):
        for p, q, top, left in windows(height, width, (rows, columns), stride, padding):
            for f in range(filters):
                total = 0.0 if bias is None else bias[f]
                for k in range(rows):
                    for l in range(columns):
                        if 0 <= top + k < height and 0 <= left + l < width:
                            for c in range(channels):
                                total += weight[k, l, c, f] * x[i, top + k, left + l, c]
                y[i, p, q, f] = total
    return y


def conv_adjoint(b, weight, stride, padding, image):
    """Every derivative times the filter, added to the cells of its window."""
    n, filters = b.shape[0], b.shape[3]
    rows, columns, channels, _ = weight.shape
    x = np.zeros((n, *image, channels))
    for i in range(n):
        for p, q, top, left in windows(*image, (rows, columns), stride, padding):
            for k in range(rows):
                for l in range(columns):
                    if 0 <= top + k < image[0] and 0 <= left + l < image[1]:
                        for c in range(channels):
                            for f in range(filters):
                                x[i, top + k, left + l, c] += weight[k, l, c, f] * b[i, p, q, f]
    return x


def conv_weight_gradient(a, b, size, stride, padding):
    """Every cell of a window times the derivative of the window, added up over windows and samples."""
    n, height, width, channels = a.shape
    filters = b.shape[3]
    gradient = np.zeros((*size, channels, filters))
    for i in range(n):
        for p, q, top, left in windows(height, width, size, stride, padding):
            for k in range(size[0]):
                for l in range(size[1]):
                    if 0 <= top + k < height and 0 <= left + l < width:
                        for c in range(channels):
                            for f in range(filters):
                                gradient[k, l, c, f] += a[i, top + k, left + l, c] * b[i, p, q, f]
    return gradient


def max_pool(x, size, stride):
    """Each window's maximum and its row-by-row number in the window; the first of equal ones; a NaN is never passed over."""
    n, height, width, channels = x.shape
    counts = output_counts(height, width, size, stride)
    y, where = np.zeros((n, *counts, channels)), np.zeros((n, *counts, channels), int)
    for i in range(n):
        for p, q, top, left in windows(height, width, size, stride):
            for c in range(channels):
                best, place = x[i, top, left, c], 0
                for k in range(size[0]):
                    for l in range(size[1]):
                        value = x[i, top + k, left + l, c]
                        if not np.isnan(best) and (value > best or np.isnan(value)):
                            best, place = value, k * size[1] + l
                y[i, p, q, c], where[i, p, q, c] = best, place
    return y, where


def max_pool_scatter(b, where, size, stride, image):
    """Every derivative, added to the cell that won its window."""
    n, _, _, channels = b.shape
    x = np.zeros((n, *image, channels))
    for i in range(n):
        for p, q, top, left in windows(*image, size, stride):
            for c in range(channels):
                k, l = divmod(int(where[i, p, q, c]), size[1])
                x[i, top + k, left + l, c] += b[i, p, q, c]
    return x


def max_pool_gather(t, where, size, stride):
    """The tangent of the cell that won each window."""
    n, height, width, channels = t.shape
    y = np.zeros(where.shape)
    for i in range(n):
        for p, q, top, left in windows(height, width, size, stride):
            for c in range(channels):
                k, l = divmod(int(where[i, p, q, c]), size[1])
                y[i, p, q, c] = t[i, top + k, left + l, c]
    return y


def mean_pool(x, size, stride):
    """Each window's sum, divided by the number of its cells."""
    n, height, width, channels = x.shape
    y = np.zeros((n, *output_counts(height, width, size, stride), channels))
    for i in range(n):
        for p, q, top, left in windows(height, width, size, stride):
            for c in range(channels):
                total = 0.0
                for k in range(size[0]):
                    for l in range(size[1]):
                        total += x[i, top + k, left + l, c]
                y[i, p, q, c] = total / (size[0] * size[1])
    return y


def mean_pool_adjoint(b, size, stride, image):
    """Every derivative, in equal shares added to the cells of its window."""
    n, _, _, channels = b.shape
    x = np.zeros((n, *image, channels))
    for i in range(n):
        for p, q, top, left in windows(*image, size, stride):
            for c in range(channels):
                for k in range(size[0]):
                    for l in range(size[1]):
                        x[i, top + k, left + l, c] += b[i, p, q, c] / (size[0] * size[1])
    return x
