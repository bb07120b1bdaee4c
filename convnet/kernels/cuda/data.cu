// A data set that lives on the device: the rows of one batch, and the numbers of one step.

// out[i] = data[order[cursor · batch + i]], rows of `width` numbers.
extern "C" __global__ void gather_rows(
    const real* data, const long long* order, const long long* cursor, int batch, real* out, int width, int count)
{
    int i = element();
    if (i >= count) return;
    out[i] = data[order[cursor[0] * batch + i / width] * width + i % width];
}

// Begin a step: take its draw and its numbers out of the epoch's tables and move the cursor on.
extern "C" __global__ void begin_step(
    long long* cursor, const u64* draws, u64* draw, const real* table, real* numbers, int width)
{
    long long step = ++cursor[0];
    draw[0] = draws[step];
    for (int j = 0; j < width; j++) numbers[j] = table[step * width + j];
}
