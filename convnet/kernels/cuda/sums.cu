// Sums over all rows of a matrix, deterministic: slices of the rows first, then the slices (`sum_slices`).

#define COLUMNS 32  // of a block, side by side in memory
#define LINES 8     // rows that a block reads at a time

// partial[s][j] = sum over the rows i of slice s of b[i][j], or of (a[i][j] - mean[j]) (b[i][j] - mean[j]) with an `a`; without
// `mean` it is 0. Blocks of COLUMNS * LINES threads; grid (column groups, slices).
extern "C" __global__ void row_sums(
    const real* b, const real* a, const real* mean, real* partial, int rows, int columns, int slice)
{
    __shared__ real shared[LINES * COLUMNS];
    int lane = threadIdx.x % COLUMNS, line = threadIdx.x / COLUMNS;
    int column = blockIdx.x * COLUMNS + lane;
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
    if (line == 0 && column < columns) {
        for (int other = 1; other < LINES; other++) sum += shared[other * COLUMNS + lane];
        partial[(long long)blockIdx.y * columns + column] = sum;
    }
}
