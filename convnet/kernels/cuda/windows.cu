// im2col and its adjoint, one thread for each element of the result.

extern "C" __global__ void im2col(const real* x, real* columns, Windows g, int count)
{
    int i = element();
    if (i >= count) return;
    int rest = i;
    int channel = taken(rest, g.c, g.by_c);
    int l = taken(rest, g.kw, g.by_kw), k = taken(rest, g.kh, g.by_kh);
    int q = taken(rest, g.q, g.by_q), p = taken(rest, g.p, g.by_p), n = rest;
    int row = p * g.sh + k - g.ph, column = q * g.sw + l - g.pw;
    bool inside = row >= 0 && row < g.h && column >= 0 && column < g.w;
    columns[i] = inside ? x[((n * g.h + row) * g.w + column) * g.c + channel] : real(0);
}

// Each cell gathers from the windows that cover it: no atomics, and always the same order of summation (rows of the
// window upwards, then columns).
extern "C" __global__ void col2im(const real* columns, real* x, Windows g, int count)
{
    int i = element();
    if (i >= count) return;
    int rest = i;
    int channel = taken(rest, g.c, g.by_c);
    int column = taken(rest, g.w, g.by_w) + g.pw, row = taken(rest, g.h, g.by_h) + g.ph, n = rest;
    int p_first = first_window(row, g.kh, g.by_sh), q_first = first_window(column, g.kw, g.by_sw);
    real sum = 0;
    for (int p = last_window(row, g.by_sh, g.p); p >= p_first; p--)
        for (int q = last_window(column, g.by_sw, g.q); q >= q_first; q--) {
            int k = row - p * g.sh, l = column - q * g.sw;
            long long window = (n * g.p + p) * g.q + q;
            sum += columns[((window * g.kh + k) * g.kw + l) * g.c + channel];
        }
    x[i] = sum;
}
