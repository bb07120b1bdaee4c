// A data set that lives on the device, and what surrounds one training step: everything that changes from step to step is read
// from memory by way of a cursor, so that a recorded step can be launched again as it is.

#define ARRAYS 3  // of a batch: images, targets, tangents

// Rows of `width` numbers of each array, `count` numbers of a batch.
struct Rows { int width[ARRAYS], count[ARRAYS]; Divisor by_width[ARRAYS]; };

// Begin a step: set the cursor, take the step's draw and numbers out of the epoch's tables, and gather its batch:
// out[i] = data[order[step · batch + i]], row by row, for each array. One thread for each number of the batch.
extern "C" __global__ void begin_step(
    const long long* next, long long* cursor, const u64* draws, u64* draw, const real* table, real* numbers, int numbers_count,
    const long long* order, int batch, const real* data0, const real* data1, const real* data2, real* out0, real* out1,
    real* out2, Rows rows, int count)
{
    int i = element();
    if (i >= count) return;
    long long step = next[0];
    if (i == 0) {
        cursor[0] = step;
        draw[0] = draws[step];
        for (int j = 0; j < numbers_count; j++) numbers[j] = table[step * numbers_count + j];
    }
    const real* data[ARRAYS] = {data0, data1, data2};
    real* out[ARRAYS] = {out0, out1, out2};
    // Unrolled, so that the pointers stay in registers.
    #pragma unroll
    for (int k = 0; k < ARRAYS; k++) {
        if (i >= 0 && i < rows.count[k]) {
            int row = i, number = taken(row, rows.width[k], rows.by_width[k]);
            out[k][i] = data[k][order[step * batch + row] * rows.width[k] + number];
        }
        i -= rows.count[k];
    }
}

// Write the step's loss, penalty, objective and share of wrong outputs to its row of the epoch's table. If one of them is not
// finite, nothing changes any more from here on. Then the next step is due. One block of THREADS threads.
extern "C" __global__ void record_step(
    const real* outputs, const long long* ids, const long long* order, const long long* cursor, int batch, int rows,
    int classes, const real* loss, const real* penalty, const real* objective, real* table, int* halted,
    long long* next)
{
    __shared__ int wrong[THREADS];
    int count = 0;
    for (int i = threadIdx.x; i < rows; i += THREADS) {
        const real* y = outputs + (long long)i * classes;
        int best = 0;
        for (int k = 1; k < classes; k++)
            if (y[k] > y[best] || (y[k] != y[k] && y[best] == y[best])) best = k;
        count += best != ids[order[cursor[0] * batch + i]];
    }
    wrong[threadIdx.x] = count;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int i = 1; i < THREADS; i++) count += wrong[i];
    real row[4] = {loss[0], penalty[0], objective[0], real(count) / rows};
    for (int j = 0; j < 4; j++) {
        table[cursor[0] * 4 + j] = row[j];
        if (row[j] - row[j] != 0) halted[0] = 1;
    }
    next[0] = cursor[0] + 1;
}

// Put running statistics in place, unless the run has halted.
extern "C" __global__ void keep(const real* fresh, const int* halted, real* state, int count)
{
    int i = element();
    if (i < count && !halted[0]) state[i] = fresh[i];
}
