// A data set that lives on the device, and what surrounds one training step: everything that changes from step to step is read
// from memory by way of a cursor, so that a recorded step can be launched again as it is.

// Begin a step: move the cursor on, and take the step's draw and numbers out of the epoch's tables.
extern "C" __global__ void begin_step(
    long long* cursor, const u64* draws, u64* draw, const real* table, real* numbers, int width)
{
    long long step = ++cursor[0];
    draw[0] = draws[step];
    for (int j = 0; j < width; j++) numbers[j] = table[step * width + j];
}

// out[i] = data[order[cursor · batch + i]], rows of `width` numbers.
extern "C" __global__ void gather_rows(
    const real* data, const long long* order, const long long* cursor, int batch, real* out, int width, int count)
{
    int i = element();
    if (i >= count) return;
    out[i] = data[order[cursor[0] * batch + i / width] * width + i % width];
}

// Write the step's loss, penalty, objective and share of wrong outputs to its row of the epoch's table. If one of them is not
// finite, nothing changes any more from here on. One block of THREADS threads.
extern "C" __global__ void record_step(
    const real* outputs, const long long* ids, const long long* order, const long long* cursor, int batch, int rows,
    int classes, const real* loss, const real* penalty, const real* objective, real* table, int* halted)
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
}

// Put running statistics in place, unless the run has halted.
extern "C" __global__ void keep(const real* fresh, const int* halted, real* state, int count)
{
    int i = element();
    if (i < count && !halted[0]) state[i] = fresh[i];
}
