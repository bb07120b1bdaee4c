// Put before every other source of this folder. REAL, float or double, comes from the compiler's options.
// Plain C++ that nvcc and NVRTC understand, and g++ too where the handful of CUDA words below is defined.

#define THREADS 256  // of a block, where a kernel does not say otherwise

typedef REAL real;
typedef unsigned int u32;
typedef unsigned long long u64;

// What it takes to divide by a number that is known before the launch: a device has no instruction for it.
struct Divisor { u32 factor; int shift; };

// Windows over images, all channels-last: images (n, h, w, c), p times q windows of kh times kw cells each, f filters.
struct Windows {
    int n, h, w, c;
    int p, q;
    int kh, kw;
    int sh, sw;  // stride
    int ph, pw;  // padding
    int f;
    Divisor by_h, by_w, by_c, by_p, by_q, by_kh, by_kw, by_sh, by_sw, by_f;
};

// The number of this thread, which is the number of the output element that it computes.
__device__ __forceinline__ int element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// i / d, rounded down, for 0 <= i < 2^31 (Granlund and Montgomery 1994).
__device__ __forceinline__ int quotient(int i, const Divisor& d)
{
    return d.shift < 0 ? i : (int)(__umulhi((u32)i, d.factor) >> d.shift);
}

// Return the remainder of `rest` by `size`, and leave the quotient in `rest`.
__device__ __forceinline__ int taken(int& rest, int size, const Divisor& by)
{
    int all = rest;
    rest = quotient(all, by);
    return all - rest * size;
}

__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }

// Return the sum of `value` over the BLOCK threads of a block, added up pairwise; `shared` has room for a number of each.
template <int BLOCK>
__device__ __forceinline__ real block_sum(real value, real* shared)
{
    shared[threadIdx.x] = value;
    __syncthreads();
    for (u32 half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    real sum = shared[0];
    __syncthreads();
    return sum;
}

// What can be done to a number as it is written.
#define RECTIFIED 1  // max(0, number), and where it is positive goes to the mask
#define MASKED 2     // 0 where the mask is not set

__device__ __forceinline__ real ended(real value, bool* mask, long long at, int ending)
{
    if (ending == RECTIFIED) {
        mask[at] = value > 0;
        // A NaN passes, so that it is seen.
        return value <= 0 ? real(0) : value;
    }
    return ending == MASKED && !mask[at] ? real(0) : value;
}

// The first and last window, along one axis, that cover a cell of the padded image.
__device__ __forceinline__ int first_window(int cell, int size, const Divisor& stride)
{
    return cell < size ? 0 : quotient(cell - size, stride) + 1;
}

__device__ __forceinline__ int last_window(int cell, const Divisor& stride, int windows)
{
    return smaller(quotient(cell, stride), windows - 1);
}
