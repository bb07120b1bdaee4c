// Matrix products, and the three products of a convolution without a column matrix.
//
// out (m, n) = A (m, k) B (k, n). Both factors are read through an operand that knows element (outer, inner): outer is a row of
// A or a column of B, inner the index summed over. A block of 256 threads computes a tile of 64 x 64, 4 x 4 for each thread, in
// steps of 16 along the inner axis that pass through shared memory; the next step's numbers are fetched while this step's are
// multiplied. The sum over the inner axis can be cut into `splits` slices, which `sum_slices` adds in a fixed order.

#define TILE 64
#define STEP 16
#define EACH 4             // rows and columns for each thread, and elements of each operand that it fetches in a step
#define PITCH (TILE + 4)   // of a row in shared memory: keeps rows aligned for vector loads and their writes off one bank

// --- operands --------------------------------------------------------------------------------------------------------------
// `outer` and `inner` turn an index into what several elements share, `at` reads one. Groups of 16 neighbouring threads get
// neighbouring inner indices where INNER_FAST is set, outer ones otherwise: whichever lie side by side in memory.

struct InnerRows {  // element (o, i) at data[o * pitch + i]
    static const bool INNER_FAST = true;
    const real* data;
    int pitch;
    typedef long long Outer;
    typedef int Inner;
    __device__ __forceinline__ Outer outer(int o) const { return (long long)o * pitch; }
    __device__ __forceinline__ Inner inner(int i) const { return i; }
    __device__ __forceinline__ real at(Outer o, Inner i) const { return data[o + i]; }
};

struct OuterRows {  // element (o, i) at data[i * pitch + o]
    static const bool INNER_FAST = false;
    const real* data;
    int pitch;
    typedef int Outer;
    typedef long long Inner;
    __device__ __forceinline__ Outer outer(int o) const { return o; }
    __device__ __forceinline__ Inner inner(int i) const { return (long long)i * pitch; }
    __device__ __forceinline__ real at(Outer o, Inner i) const { return data[i + o]; }
};

struct Cell { int row, column, offset; };

// The window (n, p, q) of number i: its upper left cell, and the offset of the image.
__device__ __forceinline__ Cell window_corner(const Windows& g, int i)
{
    Cell a;
    a.column = i % g.q * g.sw - g.pw; i /= g.q;
    a.row = i % g.p * g.sh - g.ph;
    a.offset = i / g.p * g.h * g.w * g.c;
    return a;
}

// The cell (k, l, channel) of number i in a window.
__device__ __forceinline__ Cell window_cell(const Windows& g, int i)
{
    Cell a;
    a.offset = i % g.c; i /= g.c;
    a.column = i % g.kw;
    a.row = i / g.kw;
    return a;
}

__device__ __forceinline__ real window_value(const real* x, const Windows& g, const Cell& corner, const Cell& cell)
{
    int row = corner.row + cell.row, column = corner.column + cell.column;
    if (row < 0 || row >= g.h || column < 0 || column >= g.w) return 0;
    return x[corner.offset + (row * g.w + column) * g.c + cell.offset];
}

struct WindowRows {  // the column matrix: outer is a window, inner a cell of it
    static const bool INNER_FAST = true;
    const real* x;
    Windows g;
    typedef Cell Outer;
    typedef Cell Inner;
    __device__ __forceinline__ Outer outer(int o) const { return window_corner(g, o); }
    __device__ __forceinline__ Inner inner(int i) const { return window_cell(g, i); }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i) const { return window_value(x, g, o, i); }
};

struct WindowColumns {  // its transpose: outer is a cell of the window, inner a window
    static const bool INNER_FAST = false;
    const real* x;
    Windows g;
    typedef Cell Outer;
    typedef Cell Inner;
    __device__ __forceinline__ Outer outer(int o) const { return window_cell(g, o); }
    __device__ __forceinline__ Inner inner(int i) const { return window_corner(g, i); }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i) const { return window_value(x, g, i, o); }
};

struct CoveringWindows {  // outer is a cell (n, h, w) of an image, inner (k, l, filter): b of the window whose cell (k, l) it is
    static const bool INNER_FAST = true;
    const real* b;
    Windows g;
    int filters;
    typedef Cell Outer;
    typedef Cell Inner;
    __device__ __forceinline__ Outer outer(int o) const
    {
        Cell a;
        a.column = o % g.w + g.pw; o /= g.w;
        a.row = o % g.h + g.ph;
        a.offset = o / g.h * g.p * g.q * filters;
        return a;
    }
    __device__ __forceinline__ Inner inner(int i) const
    {
        Cell a;
        a.offset = i % filters; i /= filters;
        a.column = i % g.kw;
        a.row = i / g.kw;
        return a;
    }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i) const
    {
        int row = o.row - i.row, column = o.column - i.column;
        int p = row / g.sh, q = column / g.sw;
        if (row < 0 || column < 0 || p * g.sh != row || q * g.sw != column || p >= g.p || q >= g.q) return 0;
        return b[o.offset + (p * g.q + q) * filters + i.offset];
    }
};

struct FilterChannels {  // outer is a channel, inner (k, l, filter) of filters (kh, kw, channels, filters)
    static const bool INNER_FAST = true;
    const real* weight;
    int channels, filters;
    typedef int Outer;
    typedef long long Inner;
    __device__ __forceinline__ Outer outer(int o) const { return o * filters; }
    __device__ __forceinline__ Inner inner(int i) const
    {
        return (long long)(i / filters) * channels * filters + i % filters;
    }
    __device__ __forceinline__ real at(Outer o, Inner i) const { return weight[i + o]; }
};

// --- the product -----------------------------------------------------------------------------------------------------------

// Fetch this thread's elements of the operand's tile, outer from `first`, inner from `start`; 0 beyond the ends. All of them have
// the same inner index, whose place is worked out once for each step.
template <class Operand>
struct Fetch {
    Operand operand;
    int outer_of[EACH], inner_of;
    typename Operand::Outer outer[EACH];
    bool exists[EACH];

    __device__ __forceinline__ Fetch(const Operand& operand_, int first, int count) : operand(operand_)
    {
        int group = (int)threadIdx.x / STEP, member = (int)threadIdx.x % STEP;
        inner_of = Operand::INNER_FAST ? member : group;
        for (int e = 0; e < EACH; e++) {
            outer_of[e] = (Operand::INNER_FAST ? group : member) + e * (TILE / EACH);
            exists[e] = first + outer_of[e] < count;
            outer[e] = operand.outer(exists[e] ? first + outer_of[e] : 0);
        }
    }

    __device__ __forceinline__ void read(real* into, int start, int end) const
    {
        int i = start + inner_of;
        bool inside = i < end;
        typename Operand::Inner inner = operand.inner(inside ? i : 0);
        for (int e = 0; e < EACH; e++) into[e] = inside && exists[e] ? operand.at(outer[e], inner) : real(0);
    }

    __device__ __forceinline__ void write(const real* from, real* tile) const
    {
        for (int e = 0; e < EACH; e++) tile[inner_of * PITCH + outer_of[e]] = from[e];
    }
};

template <class A, class B>
__device__ __forceinline__ void tiles(const A& a, const B& b, const real* bias, real* out, int m, int n, int k, int slice)
{
    __shared__ __align__(16) real tile_a[STEP * PITCH];
    __shared__ __align__(16) real tile_b[STEP * PITCH];
    int row = blockIdx.x * TILE, column = blockIdx.y * TILE;
    int start = blockIdx.z * slice, end = smaller(start + slice, k);
    Fetch<A> fetch_a(a, row, m);
    Fetch<B> fetch_b(b, column, n);
    real next_a[EACH], next_b[EACH], sum[EACH][EACH] = {};
    fetch_a.read(next_a, start, end);
    fetch_b.read(next_b, start, end);
    int my_row = threadIdx.x / (TILE / EACH) * EACH, my_column = threadIdx.x % (TILE / EACH) * EACH;
    for (; start < end; start += STEP) {
        fetch_a.write(next_a, tile_a);
        fetch_b.write(next_b, tile_b);
        __syncthreads();
        if (start + STEP < end) {
            fetch_a.read(next_a, start + STEP, end);
            fetch_b.read(next_b, start + STEP, end);
        }
        #pragma unroll
        for (int i = 0; i < STEP; i++) {
            real left[EACH], right[EACH];
            #pragma unroll
            for (int e = 0; e < EACH; e++) {
                left[e] = tile_a[i * PITCH + my_row + e];
                right[e] = tile_b[i * PITCH + my_column + e];
            }
            #pragma unroll
            for (int r = 0; r < EACH; r++) {
                #pragma unroll
                for (int c = 0; c < EACH; c++) sum[r][c] += left[r] * right[c];
            }
        }
        __syncthreads();
    }
    out += (long long)blockIdx.z * m * n;
    for (int r = 0; r < EACH; r++)
        for (int c = 0; c < EACH; c++) {
            int i = row + my_row + r, j = column + my_column + c;
            if (i < m && j < n) out[(long long)i * n + j] = sum[r][c] + (bias ? bias[j] : real(0));
        }
}

// out[i] = sum of partial[s][i] over the slices s, upwards, plus the bias of its column.
extern "C" __global__ void sum_slices(const real* partial, const real* bias, real* out, int n, int splits, int count)
{
    int i = element();
    if (i >= count) return;
    real sum = 0;
    #pragma unroll 16
    for (int s = 0; s < splits; s++) sum += partial[(long long)s * count + i];
    out[i] = sum + (bias ? bias[i % n] : real(0));
}

// --- the kernels -------------------------------------------------------------------------------------------------------------
// Letters n and t: a factor is stored as it is, or as its transpose.

extern "C" __global__ void __launch_bounds__(THREADS) product_nn(
    const real* a, const real* b, const real* bias, real* out, int m, int n, int k, int slice)
{
    InnerRows left = {a, k};
    OuterRows right = {b, n};
    tiles(left, right, bias, out, m, n, k, slice);
}

extern "C" __global__ void __launch_bounds__(THREADS) product_nt(
    const real* a, const real* b, const real* bias, real* out, int m, int n, int k, int slice)
{
    InnerRows left = {a, k};
    InnerRows right = {b, k};
    tiles(left, right, bias, out, m, n, k, slice);
}

extern "C" __global__ void __launch_bounds__(THREADS) product_tn(
    const real* a, const real* b, const real* bias, real* out, int m, int n, int k, int slice)
{
    OuterRows left = {a, m};
    OuterRows right = {b, n};
    tiles(left, right, bias, out, m, n, k, slice);
}

extern "C" __global__ void __launch_bounds__(THREADS) product_tt(
    const real* a, const real* b, const real* bias, real* out, int m, int n, int k, int slice)
{
    OuterRows left = {a, m};
    InnerRows right = {b, k};
    tiles(left, right, bias, out, m, n, k, slice);
}

// m = windows, k = cells of a window, n = filters.
extern "C" __global__ void __launch_bounds__(THREADS) convolution(
    const real* x, const real* weight, const real* bias, real* out, Windows g, int m, int n, int k, int slice)
{
    WindowRows left = {x, g};
    OuterRows right = {weight, n};
    tiles(left, right, bias, out, m, n, k, slice);
}

// m = cells of a window, k = windows, n = filters.
extern "C" __global__ void __launch_bounds__(THREADS) convolution_weight_gradient(
    const real* x, const real* b, const real* bias, real* out, Windows g, int m, int n, int k, int slice)
{
    WindowColumns left = {x, g};
    OuterRows right = {b, n};
    tiles(left, right, bias, out, m, n, k, slice);
}

// m = cells of the images, n = channels, k = cells of a window times filters.
extern "C" __global__ void __launch_bounds__(THREADS) convolution_adjoint(
    const real* b, const real* weight, const real* bias, real* out, Windows g, int m, int n, int k, int slice)
{
    int filters = k / (g.kh * g.kw);
    CoveringWindows left = {b, g, filters};
    FilterChannels right = {weight, g.c, filters};
    tiles(left, right, bias, out, m, n, k, slice);
}
