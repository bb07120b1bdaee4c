// Softmax cross-entropy of rows of logits, with its gradient and Hessian product: one block of 32 threads for each row.

#define LANES 32

__device__ __forceinline__ real row_sum(real value, real* shared)
{
    shared[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = LANES / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    real sum = shared[0];
    __syncthreads();
    return sum;
}

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
extern "C" __global__ void softmax_cross_entropy(
    const real* z, const real* labels, const real* t, real* value, real* gradient, real* product, int classes)
{
    __shared__ real shared[LANES];
    long long row = (long long)blockIdx.x * classes;
    z += row;
    real high = z[0];
    for (int k = threadIdx.x; k < classes; k += LANES) high = z[k] > high ? z[k] : high;
    high = row_maximum(high, shared);
    real sum = 0;
    for (int k = threadIdx.x; k < classes; k += LANES) sum += exp(z[k] - high);
    sum = row_sum(sum, shared);
    if (value) {
        real log_sum = log(sum), loss = 0;
        for (int k = threadIdx.x; k < classes; k += LANES) loss += labels[row + k] * (log_sum - (z[k] - high));
        loss = row_sum(loss, shared);
        if (threadIdx.x == 0) value[blockIdx.x] = loss;
    }
    if (gradient)
        for (int k = threadIdx.x; k < classes; k += LANES)
            gradient[row + k] = exp(z[k] - high) / sum - (labels ? labels[row + k] : real(0));
    if (product) {
        real inner = 0;
        for (int k = threadIdx.x; k < classes; k += LANES) inner += exp(z[k] - high) / sum * t[row + k];
        inner = row_sum(inner, shared);
        for (int k = threadIdx.x; k < classes; k += LANES)
            product[row + k] = exp(z[k] - high) / sum * (t[row + k] - inner);
    }
}
