// Sums that several blocks share: each adds up a slice, and the slices are added in a fixed order.

#define GROUP 32   // slices that one block adds up
#define LEVELS 4   // more than are needed: GROUP to the power of LEVELS slices

// Add up what the blocks of all `slices` hold in `sum`, COUNT numbers for each of BLOCK threads. True in one block, which then
// holds the total; the others are done. `part` is the number of what is added up, among those of the launch.
//
// Each block writes its numbers to `partial`, of (part, slice, COUNT, BLOCK), and counts itself in. The last one of a group adds
// up the group, upwards, and goes on for it. Which block is the last depends on timing; what it adds, and in which order, does
// not. `arrived`, LEVELS + slices counters for each part, holds zeros before and after. Threads with nothing to add say `idle`.
template <int COUNT, int BLOCK>
__device__ __forceinline__ bool added_up(
    real* sum, real* partial, u32* arrived, int part, int slice, int slices, bool idle)
{
    __shared__ bool last;
    partial += (long long)part * slices * COUNT * BLOCK + threadIdx.x;
    arrived += part * (slices + LEVELS);
    for (int step = 1, level = 0; step < slices; step *= GROUP, level++) {
        int first = slice - slice % (step * GROUP);
        int members = smaller(GROUP, (slices - first + step - 1) / step);
        real* mine = partial + (long long)slice * COUNT * BLOCK;
        if (!idle) {
            #pragma unroll
            for (int e = 0; e < COUNT; e++) mine[e * BLOCK] = sum[e];
        }
        // What the block has written must be seen before its arrival, and the others' after theirs.
        __syncthreads();
        if (threadIdx.x == 0) {
            u32* counter = arrived + first + level;  // first is a multiple of GROUP to the power of level + 1
            __threadfence();
            last = atomicAdd(counter, 1u) == (u32)members - 1;
            __threadfence();
            if (last) *counter = 0;
        }
        __syncthreads();
        if (!last) return false;
        if (!idle) {
            const real* from = partial + (long long)first * COUNT * BLOCK;
            #pragma unroll
            for (int e = 0; e < COUNT; e++) sum[e] = 0;
            // Enough reads under way at a time.
            #pragma unroll COUNT < 64 ? 4 : 1
            for (int j = 0; j < members; j++) {
                #pragma unroll
                for (int e = 0; e < COUNT; e++) sum[e] += from[e * BLOCK];
                from += (long long)step * COUNT * BLOCK;
            }
        }
        slice = first;
    }
    return true;
}

#define ACROSS 32  // columns of a block, side by side in memory
#define LINES 8    // rows that a block reads at a time

// out[j] = sum over all rows i of b[i][j], or of (a[i][j] - mean[j]) (b[i][j] - mean[j]) with an `a`; without `mean` it is 0.
// Blocks of ACROSS * LINES threads; grid (column groups, slices of the rows).
extern "C" __global__ void __launch_bounds__(THREADS) row_sums(
    const real* b, const real* a, const real* mean, real* out, real* partial, u32* arrived, int rows, int columns, int slice)
{
    __shared__ real shared[LINES * ACROSS];
    int lane = threadIdx.x % ACROSS, line = threadIdx.x / ACROSS;
    int column = blockIdx.x * ACROSS + lane;
    int start = blockIdx.y * slice, end = smaller(start + slice, rows);
    real sum = 0;
    if (column < columns) {
        real m = mean ? mean[column] : real(0);
        for (int i = start + line; i < end; i += LINES) {
            long long at = (long long)i * columns + column;
            sum += a ? (a[at] - m) * (b[at] - m) : b[at];
        }
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    bool idle = line > 0 || column >= columns;
    if (!idle)
        for (int other = 1; other < LINES; other++) sum += shared[other * ACROSS + lane];
    if (added_up<1, THREADS>(&sum, partial, arrived, blockIdx.x, blockIdx.y, gridDim.y, idle) && !idle) out[column] = sum;
}

// Of each row of `width` numbers: the sum of |v|, with the sign of each number, or without `sign` the sum of v² / 2. A block of
// THREADS threads for each row.
extern "C" __global__ void norm_penalty(const real* v, real* penalty, real* sign, int width)
{
    __shared__ real shared[THREADS];
    long long row = (long long)blockIdx.x * width;
    real sum = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        real value = v[row + i];
        sum += sign ? (value < 0 ? -value : value) : value * value;
        // A NaN passes, so that it is seen.
        if (sign) sign[row + i] = value > 0 ? real(1) : value < 0 ? real(-1) : value;
    }
    sum = block_sum<THREADS>(sum, shared);
    if (threadIdx.x == 0) penalty[blockIdx.x] = sign ? sum : sum / 2;
}
