// Maximum and mean over windows, one thread for each element of the result. The position of a maximum is its number in the
// window, row by row; `position` is an unsigned type that can hold it. A position of KH·KW is no cell of the window.

struct Place { int n, row, column, channel; };

__device__ __forceinline__ Place place(
    const Windows& g, int i, int rows, const Divisor& by_rows, int columns, const Divisor& by_columns)
{
    Place a;
    a.channel = taken(i, g.c, g.by_c);
    a.column = taken(i, columns, by_columns);
    a.row = taken(i, rows, by_rows);
    a.n = i;
    return a;
}

__device__ __forceinline__ Place place_of_window(const Windows& g, int i) { return place(g, i, g.p, g.by_p, g.q, g.by_q); }

__device__ __forceinline__ Place place_of_cell(const Windows& g, int i) { return place(g, i, g.h, g.by_h, g.w, g.by_w); }

// With `rectify`, max(0, maximum), and no cell's position where the maximum is not positive.
template <class position>
__device__ __forceinline__ void maximum(
    const real* x, real* y, position* positions, const Windows& g, int count, bool rectify)
{
    int i = element();
    if (i >= count) return;
    Place a = place_of_window(g, i);
    const real* corner = x + ((a.n * g.h + a.row * g.sh) * g.w + a.column * g.sw) * g.c + a.channel;
    real best = corner[0];
    int where = 0;
    for (int k = 0; k < g.kh; k++)
        for (int l = 0; l < g.kw; l++) {
            real cell = corner[(k * g.w + l) * g.c];
            // The first of equal values wins; a NaN wins over all numbers and stays, so that it is seen.
            if (cell > best || (cell != cell && best == best)) {
                best = cell;
                where = k * g.kw + l;
            }
        }
    y[i] = rectify && best <= 0 ? 0 : best;
    if (positions) positions[i] = !rectify || best > 0 ? where : g.kh * g.kw;
}

// A cell gathers from the windows that cover it and whose maximum it is, in the order of `col2im`.
template <class position>
__device__ __forceinline__ void scatter(const real* b, const position* positions, real* x, const Windows& g, int count)
{
    int i = element();
    if (i >= count) return;
    Place a = place_of_cell(g, i);
    int p_first = first_window(a.row, g.kh, g.by_sh), q_first = first_window(a.column, g.kw, g.by_sw);
    real sum = 0;
    for (int p = last_window(a.row, g.by_sh, g.p); p >= p_first; p--)
        for (int q = last_window(a.column, g.by_sw, g.q); q >= q_first; q--) {
            int window = ((a.n * g.p + p) * g.q + q) * g.c + a.channel;
            if ((int)positions[window] == (a.row - p * g.sh) * g.kw + a.column - q * g.sw) sum += b[window];
        }
    x[i] = sum;
}

template <class position>
__device__ __forceinline__ void gather(const real* t, const position* positions, real* y, const Windows& g, int count)
{
    int i = element();
    if (i >= count) return;
    Place a = place_of_window(g, i);
    int where = positions[i], k = where;
    int column = a.column * g.sw + taken(k, g.kw, g.by_kw), row = a.row * g.sh + k;
    y[i] = where < g.kh * g.kw ? t[((a.n * g.h + row) * g.w + column) * g.c + a.channel] : 0;
}

extern "C" __global__ void max_pool_u8(const real* x, real* y, unsigned char* positions, Windows g, int count)
{
    maximum(x, y, positions, g, count, false);
}

extern "C" __global__ void max_pool_u32(const real* x, real* y, u32* positions, Windows g, int count)
{
    maximum(x, y, positions, g, count, false);
}

extern "C" __global__ void relu_max_pool_u8(const real* x, real* y, unsigned char* positions, Windows g, int count)
{
    maximum(x, y, positions, g, count, true);
}

extern "C" __global__ void relu_max_pool_u32(const real* x, real* y, u32* positions, Windows g, int count)
{
    maximum(x, y, positions, g, count, true);
}

extern "C" __global__ void max_pool_scatter_u8(
    const real* b, const unsigned char* positions, real* x, Windows g, int count)
{
    scatter(b, positions, x, g, count);
}

extern "C" __global__ void max_pool_scatter_u32(const real* b, const u32* positions, real* x, Windows g, int count)
{
    scatter(b, positions, x, g, count);
}

extern "C" __global__ void max_pool_gather_u8(
    const real* t, const unsigned char* positions, real* y, Windows g, int count)
{
    gather(t, positions, y, g, count);
}

extern "C" __global__ void max_pool_gather_u32(const real* t, const u32* positions, real* y, Windows g, int count)
{
    gather(t, positions, y, g, count);
}

extern "C" __global__ void mean_pool(const real* x, real* y, Windows g, int count)
{
    int i = element();
    if (i >= count) return;
    Place a = place_of_window(g, i);
    const real* corner = x + ((a.n * g.h + a.row * g.sh) * g.w + a.column * g.sw) * g.c + a.channel;
    real sum = 0;
    for (int k = 0; k < g.kh; k++)
        for (int l = 0; l < g.kw; l++) sum += corner[(k * g.w + l) * g.c];
    y[i] = sum / (g.kh * g.kw);
}

extern "C" __global__ void mean_pool_adjoint(const real* b, real* x, Windows g, int count)
{
    int i = element();
    if (i >= count) return;
    Place a = place_of_cell(g, i);
    int p_first = first_window(a.row, g.kh, g.by_sh), q_first = first_window(a.column, g.kw, g.by_sw);
    real sum = 0;
    for (int p = last_window(a.row, g.by_sh, g.p); p >= p_first; p--)
        for (int q = last_window(a.column, g.by_sw, g.q); q >= q_first; q--)
            sum += b[((a.n * g.p + p) * g.q + q) * g.c + a.channel] / (g.kh * g.kw);
    x[i] = sum;
}
