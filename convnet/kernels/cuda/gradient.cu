// What a step ends in: its gradient as one vector, and the means of its losses.

#define PARTS 16

struct Parts { int offset[PARTS], count[PARTS]; real scale[PARTS]; };

// Add scale[j] · a_j to the vector from offset[j] on, for up to PARTS arrays whose places do not overlap; in a `fresh` vector, put
// it there.
extern "C" __global__ void add_parts(
    const real* a0, const real* a1, const real* a2, const real* a3, const real* a4, const real* a5, const real* a6,
    const real* a7, const real* a8, const real* a9, const real* a10, const real* a11, const real* a12, const real* a13,
    const real* a14, const real* a15, Parts parts, real* vector, bool fresh, int count)
{
    int i = element();
    if (i >= count) return;
    const real* a[PARTS] = {a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15};
    // Unrolled, so that the pointers stay in registers.
    #pragma unroll
    for (int j = 0; j < PARTS; j++) {
        if (i >= 0 && i < parts.count[j]) {
            real value = parts.scale[j] * a[j][i];
            real* place = vector + parts.offset[j] + i;
            *place = fresh ? value : *place + value;
        }
        i -= parts.count[j];
    }
}

// means: of the losses and of the penalties (0 where null), and their sum with the penalties' coefficient. One block of THREADS
// threads.
extern "C" __global__ void step_means(const real* losses, const real* penalties, real coefficient, real* means, int count)
{
    __shared__ real shared[THREADS];
    real loss = 0, penalty = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) {
        loss += losses[i];
        if (penalties) penalty += penalties[i];
    }
    loss = block_sum<THREADS>(loss, shared);
    penalty = block_sum<THREADS>(penalty, shared);
    if (threadIdx.x > 0) return;
    means[0] = loss / count;
    means[1] = penalty / count;
    means[2] = means[0] + coefficient * means[1];
}
