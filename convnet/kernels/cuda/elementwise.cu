// One thread for each element of the result.

extern "C" __global__ void relu(const real* x, real* y, bool* mask, int count)
{
    int i = element();
    if (i >= count) return;
    y[i] = ended(x[i], mask, i, RECTIFIED);
}

extern "C" __global__ void masked(const real* b, const bool* mask, real* y, int count)
{
    int i = element();
    if (i < count) y[i] = mask[i] ? b[i] : real(0);
}

// What the own products do as they write: add the bias, where it is not null, and end.
extern "C" __global__ void finish(real* y, const real* bias, bool* mask, int ending, int columns, int count)
{
    int i = element();
    if (i < count) y[i] = ended(bias ? y[i] + bias[i % columns] : y[i], mask, i, ending);
}

// y = scale (a - shift) + other b + offset; all but a and b have a value for each column, and may be null, as b may, but scale.
extern "C" __global__ void row_affine(
    const real* a, const real* shift, const real* scale, const real* b, const real* other, const real* offset, real* y,
    int columns, int count)
{
    int i = element();
    if (i >= count) return;
    int column = i % columns;
    real value = scale[column] * (shift ? a[i] - shift[column] : a[i]);
    if (b) value += other[column] * b[i];
    if (offset) value += offset[column];
    y[i] = value;
}

// y = sum of coefficient times array over up to four arrays; absent ones are null.
extern "C" __global__ void combination(
    real* y, const real* a0, const real* a1, const real* a2, const real* a3, real c0, real c1, real c2, real c3, int count)
{
    int i = element();
    if (i >= count) return;
    real sum = c0 * a0[i];
    if (a1) sum += c1 * a1[i];
    if (a2) sum += c2 * a2[i];
    if (a3) sum += c3 * a3[i];
    y[i] = sum;
}

#define PAIRS 8

struct Pairs { real first[PAIRS], second[PAIRS]; int count[PAIRS]; };

// y_j = first[j] · a_j + second[j] · b_j, for up to PAIRS pairs of arrays.
extern "C" __global__ void combine_pairs(
    real* y0, real* y1, real* y2, real* y3, real* y4, real* y5, real* y6, real* y7,
    const real* a0, const real* a1, const real* a2, const real* a3, const real* a4, const real* a5, const real* a6, const real* a7,
    const real* b0, const real* b1, const real* b2, const real* b3, const real* b4, const real* b5, const real* b6, const real* b7,
    Pairs pairs, int count)
{
    int i = element();
    if (i >= count) return;
    real* y[PAIRS] = {y0, y1, y2, y3, y4, y5, y6, y7};
    const real* a[PAIRS] = {a0, a1, a2, a3, a4, a5, a6, a7};
    const real* b[PAIRS] = {b0, b1, b2, b3, b4, b5, b6, b7};
    // Unrolled, so that the pointers stay in registers.
    #pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        if (i >= 0 && i < pairs.count[j]) y[j][i] = pairs.first[j] * a[j][i] + pairs.second[j] * b[j][i];
        i -= pairs.count[j];
    }
}
