// Matrix products, and the three products of a convolution without a column matrix.
//
// out (m, n) = A (m, k) B (k, n). Both factors are read through an operand that knows element (outer, inner): outer is a row of
// A or a column of B, inner the index summed over. A block computes a tile of the result in steps along the inner axis. A step's
// numbers pass through one half of the shared memory, while the next step's are fetched; they go to the other half. Several
// blocks can share the inner axis (`added_up`).
//
// Tiles come in two kinds, with small and with large parts for each thread: the small ones have more threads to hide how long
// reading takes, the large ones do more multiplications for each number read. Each kind has a narrow tile for small n.

#define SMALL_BLOCK 256
#define LARGE_BLOCK 128
#define PITCH(tile) ((tile) + 4)                     // of a row in shared memory: aligned for vector loads, and writes off one bank
#define SHARED (2 * 16 * (PITCH(128) + PITCH(32)))  // numbers in shared memory, enough for any tile

// --- operands --------------------------------------------------------------------------------------------------------------
// `outer` and `inner` turn an index into what several elements share, `at` reads one, or returns `otherwise` where it is not
// `wanted`. Neighbouring threads get neighbouring inner indices where INNER_FAST is set, outer ones
// otherwise: whichever lie side by side in memory.

struct InnerRows {  // element (o, i) at data[o * pitch + i]
    static const bool INNER_FAST = true;
    const real* data;
    int pitch;
    typedef long long Outer;
    typedef int Inner;
    __device__ __forceinline__ Outer outer(int o) const { return (long long)o * pitch; }
    __device__ __forceinline__ Inner inner(int i) const { return i; }
    __device__ __forceinline__ real at(Outer o, Inner i, bool wanted, real otherwise) const
    {
        return wanted ? data[o + i] : otherwise;
    }
};

struct OuterRows {  // element (o, i) at data[i * pitch + o]
    static const bool INNER_FAST = false;
    const real* data;
    int pitch;
    typedef int Outer;
    typedef long long Inner;
    __device__ __forceinline__ Outer outer(int o) const { return o; }
    __device__ __forceinline__ Inner inner(int i) const { return (long long)i * pitch; }
    __device__ __forceinline__ real at(Outer o, Inner i, bool wanted, real otherwise) const
    {
        return wanted ? data[i + o] : otherwise;
    }
};

// A place in images, or the way from one to another: both add up. Offsets wrap around, as those of places beyond the edge must.
struct Spot { int row, column; u32 offset; };

__device__ __forceinline__ real value_at(
    const real* images, int rows, int columns, const Spot& a, const Spot& b, bool wanted, real otherwise)
{
    wanted = wanted && (u32)(a.row + b.row) < (u32)rows && (u32)(a.column + b.column) < (u32)columns;
    return wanted ? images[a.offset + b.offset] : otherwise;
}

// The upper left cell of window (n, p, q) number i.
__device__ __forceinline__ Spot corner(const Windows& g, int i)
{
    Spot a;
    a.column = taken(i, g.q, g.by_q) * g.sw - g.pw;
    a.row = taken(i, g.p, g.by_p) * g.sh - g.ph;
    a.offset = (((u32)i * g.h + a.row) * g.w + a.column) * g.c;
    return a;
}

// From there to cell (k, l, channel) number i of the window.
__device__ __forceinline__ Spot cell(const Windows& g, int i)
{
    Spot a;
    int channel = taken(i, g.c, g.by_c);
    a.column = taken(i, g.kw, g.by_kw);
    a.row = i;
    a.offset = (u32)((a.row * g.w + a.column) * g.c + channel);
    return a;
}

struct WindowRows {  // the column matrix: outer is a window, inner a cell of it
    static const bool INNER_FAST = true;
    const real* x;
    const Windows& g;
    typedef Spot Outer;
    typedef Spot Inner;
    __device__ __forceinline__ Outer outer(int o) const { return corner(g, o); }
    __device__ __forceinline__ Inner inner(int i) const { return cell(g, i); }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i, bool wanted, real otherwise) const
    {
        return value_at(x, g.h, g.w, o, i, wanted, otherwise);
    }
};

struct WindowColumns {  // its transpose: outer is a cell of the window, inner a window
    static const bool INNER_FAST = false;
    const real* x;
    const Windows& g;
    typedef Spot Outer;
    typedef Spot Inner;
    __device__ __forceinline__ Outer outer(int o) const { return cell(g, o); }
    __device__ __forceinline__ Inner inner(int i) const { return corner(g, i); }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i, bool wanted, real otherwise) const
    {
        return value_at(x, g.h, g.w, i, o, wanted, otherwise);
    }
};

// Cell (n, h, w) number i of the padded images: its image, without an offset, stays in i.
__device__ __forceinline__ Spot padded_cell(const Windows& g, int& i)
{
    Spot a;
    a.column = taken(i, g.w, g.by_w) + g.pw;
    a.row = taken(i, g.h, g.by_h) + g.ph;
    a.offset = 0;
    return a;
}

// Cell (k, l) of a window and filter number i, which is the offset.
__device__ __forceinline__ Spot cell_and_filter(const Windows& g, int i)
{
    Spot a;
    a.offset = (u32)taken(i, g.f, g.by_f);
    a.column = taken(i, g.kw, g.by_kw);
    a.row = i;
    return a;
}

// Outer is a cell (n, h, w) of an image, inner (k, l, filter): b of the window whose cell (k, l) it is. Windows one apart: they are
// cells of an image themselves.
struct CoveringWindows {
    static const bool INNER_FAST = true;
    const real* b;
    const Windows& g;
    typedef Spot Outer;
    typedef Spot Inner;
    __device__ __forceinline__ Outer outer(int o) const
    {
        Spot a = padded_cell(g, o);
        a.offset = (((u32)o * g.p + a.row) * g.q + a.column) * g.f;
        return a;
    }
    __device__ __forceinline__ Inner inner(int i) const
    {
        Spot a = cell_and_filter(g, i);
        a.column = -a.column;
        a.row = -a.row;
        a.offset += (u32)((a.row * g.q + a.column) * g.f);
        return a;
    }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i, bool wanted, real otherwise) const
    {
        return value_at(b, g.p, g.q, o, i, wanted, otherwise);
    }
};

// The same for windows any distance apart.
struct SpacedWindows {
    static const bool INNER_FAST = true;
    const real* b;
    const Windows& g;
    typedef Spot Outer;
    typedef Spot Inner;
    __device__ __forceinline__ Outer outer(int o) const
    {
        Spot a = padded_cell(g, o);
        a.offset = (u32)o * g.p * g.q * g.f;
        return a;
    }
    __device__ __forceinline__ Inner inner(int i) const { return cell_and_filter(g, i); }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i, bool wanted, real otherwise) const
    {
        int row = o.row - i.row, column = o.column - i.column;
        if (!wanted || row < 0 || column < 0) return otherwise;
        int p = quotient(row, g.by_sh), q = quotient(column, g.by_sw);
        if (p * g.sh != row || q * g.sw != column || p >= g.p || q >= g.q) return otherwise;
        return b[o.offset + (u32)(p * g.q + q) * g.f + i.offset];
    }
};

struct FilterChannels {  // outer is a channel, inner (k, l, filter) of filters (kh, kw, c, f)
    static const bool INNER_FAST = true;
    const real* weight;
    const Windows& g;
    typedef int Outer;
    typedef long long Inner;
    __device__ __forceinline__ Outer outer(int o) const { return o * g.f; }
    __device__ __forceinline__ Inner inner(int i) const
    {
        int filter = taken(i, g.f, g.by_f);
        return (long long)i * g.c * g.f + filter;
    }
    __device__ __forceinline__ real at(Outer o, Inner i, bool wanted, real otherwise) const
    {
        return wanted ? weight[i + o] : otherwise;
    }
};

// An operand with ones where outer is `count`: the sums of the other factor then come with the product.
template <class Operand>
struct WithOnes {
    static const bool INNER_FAST = Operand::INNER_FAST;
    Operand operand;
    int count;
    typedef typename Operand::Outer Outer;
    typedef typename Operand::Inner Inner;
    __device__ __forceinline__ Outer outer(int o) const { return operand.outer(o); }
    __device__ __forceinline__ Inner inner(int i) const { return operand.inner(i); }
    __device__ __forceinline__ real at(const Outer& o, const Inner& i, bool wanted, real otherwise) const
    {
        return operand.at(o, i, wanted, otherwise);
    }
};

// What counts where outer is `o` and nothing is read.
template <class Operand>
__device__ __forceinline__ real unread(const Operand&, int) { return 0; }

template <class Operand>
__device__ __forceinline__ real unread(const WithOnes<Operand>& operand, int o) { return o == operand.count; }

// --- the product -----------------------------------------------------------------------------------------------------------

// What is computed: out (m, n), by blocks of which each adds up `slice` of the k products; what is done to each sum at the end; with
// narrow tiles or not.
struct Product { int m, n, k, slice, ending; bool narrow; };

// This thread's elements of the operand's tile, outer from `first`. All of them have the same inner index, whose place is worked
// out once for each step.
template <class Operand, int TILE, int STEP, int BLOCK>
struct Fetch {
    static const int APART = BLOCK / STEP, COUNT = TILE / APART;
    Operand operand;
    int outer_of, inner_of;
    typename Operand::Outer outer[COUNT];
    bool exists[COUNT];
    real otherwise[COUNT];

    __device__ __forceinline__ Fetch(const Operand& operand_, int first, int count) : operand(operand_)
    {
        int thread = threadIdx.x;
        inner_of = Operand::INNER_FAST ? thread % STEP : thread / APART;
        outer_of = Operand::INNER_FAST ? thread / STEP : thread % APART;
        for (int e = 0; e < COUNT; e++) {
            int o = first + outer_of + e * APART;
            otherwise[e] = unread(operand, o);
            exists[e] = o < count && otherwise[e] == 0;
            outer[e] = operand.outer(exists[e] ? o : 0);
        }
    }

    // Inner from `start`; beyond the end, the other factor is 0.
    __device__ __forceinline__ void read(real* into, int start, int end) const
    {
        int i = start + inner_of;
        bool inside = i < end;
        typename Operand::Inner inner = operand.inner(inside ? i : 0);
        for (int e = 0; e < COUNT; e++) into[e] = operand.at(outer[e], inner, inside && exists[e], otherwise[e]);
    }

    __device__ __forceinline__ void write(const real* from, real* tile) const
    {
        for (int e = 0; e < COUNT; e++) tile[inner_of * PITCH(TILE) + outer_of + e * APART] = from[e];
    }
};

// A tile of ROWS x COLUMNS, DOWN x RIGHT of them for each thread: rows side by side, columns in groups of 4, so that the vector
// loads of neighbouring threads lie side by side.
template <int ROWS, int COLUMNS, int DOWN, int RIGHT, int STEP, class A, class B>
__device__ __forceinline__ void tile(
    const A& a, const B& b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, const Product& p, real* shared)
{
    const int BLOCK = ROWS / DOWN * (COLUMNS / RIGHT), WIDE = COLUMNS / RIGHT;
    const int HALF = STEP * (PITCH(ROWS) + PITCH(COLUMNS)), B_TILE = STEP * PITCH(ROWS);
    typedef Fetch<A, ROWS, STEP, BLOCK> FetchA;
    typedef Fetch<B, COLUMNS, STEP, BLOCK> FetchB;
    int row = blockIdx.x * ROWS, column = blockIdx.y * COLUMNS;
    int start = blockIdx.z * p.slice, end = smaller(start + p.slice, p.k);
    FetchA fetch_a(a, row, p.m);
    FetchB fetch_b(b, column, p.n);
    real next_a[FetchA::COUNT], next_b[FetchB::COUNT], sum[DOWN * RIGHT] = {};
    fetch_a.read(next_a, start, end);
    fetch_b.read(next_b, start, end);
    int my_row = threadIdx.x / WIDE * DOWN, my_column = threadIdx.x % WIDE * 4;
    for (int half = 0; start < end; start += STEP, half ^= 1) {
        real* tile_a = shared + half * HALF;
        real* tile_b = tile_a + B_TILE;
        fetch_a.write(next_a, tile_a);
        fetch_b.write(next_b, tile_b);
        // One barrier a step: who writes to a half again has passed the barrier that all reach when they have read it.
        __syncthreads();
        if (start + STEP < end) {
            fetch_a.read(next_a, start + STEP, end);
            fetch_b.read(next_b, start + STEP, end);
        }
        #pragma unroll
        for (int i = 0; i < STEP; i++) {
            real left[DOWN], right[RIGHT];
            #pragma unroll
            for (int r = 0; r < DOWN; r++) left[r] = tile_a[i * PITCH(ROWS) + my_row + r];
            #pragma unroll
            for (int c = 0; c < RIGHT; c++) right[c] = tile_b[i * PITCH(COLUMNS) + c / 4 * (4 * WIDE) + my_column + c % 4];
            #pragma unroll
            for (int r = 0; r < DOWN; r++) {
                #pragma unroll
                for (int c = 0; c < RIGHT; c++) sum[r * RIGHT + c] += left[r] * right[c];
            }
        }
    }
    row += my_row;
    column += my_column;
    if (!added_up<DOWN * RIGHT, BLOCK>(sum, partial, arrived, blockIdx.y * gridDim.x + blockIdx.x, blockIdx.z, gridDim.z,
                                       row >= p.m || column >= p.n))
        return;
    // Loops of their own for what is rarely asked for, so that it is jumped over as a whole.
    if (bias) {
        #pragma unroll
        for (int c = 0; c < RIGHT; c++) {
            int j = column + c / 4 * (4 * WIDE) + c % 4;
            real constant = j < p.n ? bias[j] : real(0);
            #pragma unroll
            for (int r = 0; r < DOWN; r++) sum[r * RIGHT + c] += constant;
        }
    }
    if (p.ending) {
        #pragma unroll
        for (int r = 0; r < DOWN; r++) {
            #pragma unroll
            for (int c = 0; c < RIGHT; c++) {
                int i = row + r, j = column + c / 4 * (4 * WIDE) + c % 4;
                if (i < p.m && j < p.n) sum[r * RIGHT + c] = ended(sum[r * RIGHT + c], mask, (long long)i * p.n + j, p.ending);
            }
        }
    }
    #pragma unroll
    for (int r = 0; r < DOWN; r++) {
        #pragma unroll
        for (int c = 0; c < RIGHT; c++) {
            int i = row + r, j = column + c / 4 * (4 * WIDE) + c % 4;
            if (i < p.m && j < p.n) out[(long long)i * p.n + j] = sum[r * RIGHT + c];
        }
    }
}

template <class A, class B>
__device__ __forceinline__ void product(
    const A& a, const B& b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, const Product& p)
{
    __shared__ __align__(16) real shared[SHARED];
    if (p.narrow)
        tile<128, 32, 4, 4, 16>(a, b, bias, out, mask, partial, arrived, p, shared);
    else
        tile<64, 64, 4, 4, 16>(a, b, bias, out, mask, partial, arrived, p, shared);
}

template <class A, class B>
__device__ __forceinline__ void large_product(
    const A& a, const B& b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, const Product& p)
{
    __shared__ __align__(16) real shared[SHARED];
    if (p.narrow)
        tile<128, 32, 8, 4, 16>(a, b, bias, out, mask, partial, arrived, p, shared);
    else
        tile<128, 64, 8, 8, 8>(a, b, bias, out, mask, partial, arrived, p, shared);
}

// --- the kernels -------------------------------------------------------------------------------------------------------------
// Letters n and t: a factor is stored as it is, or as its transpose.

extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) product_nn(
    const real* a, const real* b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Product p)
{
    InnerRows left = {a, p.k};
    OuterRows right = {b, p.n};
    product(left, right, bias, out, mask, partial, arrived, p);
}

extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) product_nt(
    const real* a, const real* b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Product p)
{
    InnerRows left = {a, p.k};
    InnerRows right = {b, p.k};
    product(left, right, bias, out, mask, partial, arrived, p);
}

extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) product_tt(
    const real* a, const real* b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Product p)
{
    OuterRows left = {a, p.m};
    InnerRows right = {b, p.k};
    product(left, right, bias, out, mask, partial, arrived, p);
}

extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) product_tn(
    const real* a, const real* b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Product p)
{
    OuterRows left = {a, p.m};
    OuterRows right = {b, p.n};
    product(left, right, bias, out, mask, partial, arrived, p);
}

// The last row of `out` holds the sums of b's columns.
extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) product_tn_and_sums(
    const real* a, const real* b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Product p)
{
    WithOnes<OuterRows> left = {{a, p.m - 1}, p.m - 1};
    OuterRows right = {b, p.n};
    product(left, right, bias, out, mask, partial, arrived, p);
}

// m = windows, k = cells of a window, n = filters.
extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) convolution(
    const real* x, const real* weight, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Windows g,
    Product p)
{
    WindowRows left = {x, g};
    OuterRows right = {weight, p.n};
    product(left, right, bias, out, mask, partial, arrived, p);
}

// m = cells of a window, k = windows, n = filters; with one m more, the last row of `out` holds the sums of b.
extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) convolution_weight_gradient(
    const real* x, const real* b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Windows g,
    Product p)
{
    WithOnes<WindowColumns> left = {{x, g}, g.kh * g.kw * g.c};
    OuterRows right = {b, p.n};
    product(left, right, bias, out, mask, partial, arrived, p);
}

// m = cells of the images, n = channels, k = cells of a window times filters; for windows one apart.
extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) convolution_adjoint(
    const real* b, const real* weight, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Windows g,
    Product p)
{
    CoveringWindows left = {b, g};
    FilterChannels right = {weight, g};
    product(left, right, bias, out, mask, partial, arrived, p);
}

// The same for windows any distance apart.
extern "C" __global__ void __launch_bounds__(SMALL_BLOCK, 2) convolution_adjoint_spaced(
    const real* b, const real* weight, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Windows g,
    Product p)
{
    SpacedWindows left = {b, g};
    FilterChannels right = {weight, g};
    product(left, right, bias, out, mask, partial, arrived, p);
}

// The same with large tiles.

extern "C" __global__ void __launch_bounds__(LARGE_BLOCK) convolution_large(
    const real* x, const real* weight, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Windows g,
    Product p)
{
    WindowRows left = {x, g};
    OuterRows right = {weight, p.n};
    large_product(left, right, bias, out, mask, partial, arrived, p);
}

extern "C" __global__ void __launch_bounds__(LARGE_BLOCK) convolution_weight_gradient_large(
    const real* x, const real* b, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Windows g,
    Product p)
{
    WithOnes<WindowColumns> left = {{x, g}, g.kh * g.kw * g.c};
    OuterRows right = {b, p.n};
    large_product(left, right, bias, out, mask, partial, arrived, p);
}

extern "C" __global__ void __launch_bounds__(LARGE_BLOCK) convolution_adjoint_large(
    const real* b, const real* weight, const real* bias, real* out, bool* mask, real* partial, u32* arrived, Windows g,
    Product p)
{
    CoveringWindows left = {b, g};
    FilterChannels right = {weight, g};
    large_product(left, right, bias, out, mask, partial, arrived, p);
}
