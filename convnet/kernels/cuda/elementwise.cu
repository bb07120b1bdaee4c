// One thread for each element of the result.

extern "C" __global__ void relu(const real* x, real* y, bool* mask, int count)
{
    int i = element();
    if (i >= count) return;
    real value = x[i];
    mask[i] = value > 0;
    // A NaN passes, so that it is seen.
    y[i] = value <= 0 ? real(0) : value;
}

extern "C" __global__ void masked(const real* b, const bool* mask, real* y, int count)
{
    int i = element();
    if (i < count) y[i] = mask[i] ? b[i] : real(0);
}

extern "C" __global__ void add_bias(real* y, const real* bias, int columns, int count)
{
    int i = element();
    if (i < count) y[i] += bias[i % columns];
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
