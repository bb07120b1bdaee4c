// Softmax cross-entropy of rows of logits, with its gradient and Hessian product: one block of 32 threads for each row.

#define LANES 32

__device__ __forceinline__ real row_maximum(real value, real* shared)
{
    shared[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = LANES / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && shared[threadIdx.x + half] > shared[threadIdx.x])
            shared[threadIdx.x] = shared[threadIdx.x + half];
        __syncthreads();
    }
    real maximum = shared[0];
    __syncthreads();
    return maximum;
}

// What is wanted is not null. value: -sum_k l_k log p_k; gradient: p - l, or p without labels; product: p (t - p·t).
// Of the largest p, 1 - p is taken as the sum of the others, and the sums of gradient and product as what they are:
// differences from 1 would be lost as p comes near 1.
extern "C" __global__ void softmax_cross_entropy(
    const real* z, const real* labels, const real* t, real* value, real* gradient, real* product, int classes)
{
    __shared__ real shared[LANES];
    long long row = (long long)blockIdx.x * classes;
    z += row;
    real high = z[0];
    for (int k = threadIdx.x; k < classes; k += LANES) high = z[k] > high ? z[k] : high;
    high = row_maximum(high, shared);
    int first = classes;
    for (int k = threadIdx.x; k < classes && first == classes; k += LANES)
        if (z[k] == high) first = k;
    const int top = (int)-row_maximum(-(real)first, shared);
    real others = 0;
    for (int k = threadIdx.x; k < classes; k += LANES)
        if (k != top) others += exp(z[k] - high);
    others = block_sum<LANES>(others, shared);
    // 1 beside the others, or not a number where z is infinite.
    const real sum = exp(z[top < classes ? top : 0] - high) + others;
    if (value) {
        real log_sum = log1p(others), loss = 0;
        for (int k = threadIdx.x; k < classes; k += LANES) loss += labels[row + k] * (log_sum - (z[k] - high));
        loss = block_sum<LANES>(loss, shared);
        if (threadIdx.x == 0) value[blockIdx.x] = loss;
    }
    if (gradient)
        for (int k = threadIdx.x; k < classes; k += LANES) {
            real p = exp(z[k] - high) / sum;
            if (labels) p = k == top ? (1 - labels[row + k]) - others / sum : p - labels[row + k];
            gradient[row + k] = p;
        }
    if (product) {
        real inner = 0;
        for (int k = threadIdx.x; k < classes; k += LANES) inner += exp(z[k] - high) / sum * t[row + k];
        inner = block_sum<LANES>(inner, shared);
        real total = 0;
        for (int k = threadIdx.x; k < classes; k += LANES)
            if (k != top) {
                real value_at = exp(z[k] - high) / sum * (t[row + k] - inner);
                product[row + k] = value_at;
                total += value_at;
            }
        total = block_sum<LANES>(total, shared);
        if (threadIdx.x == 0 && top < classes) product[row + top] = -total;
    }
}
