// Put before every other source of this folder. REAL, float or double, comes from the compiler's options.
// Plain C++ that nvcc and NVRTC understand, and g++ too where the handful of CUDA words below is defined.

#define THREADS 256  // of a block, where a kernel does not say otherwise

typedef REAL real;
typedef unsigned int u32;
typedef unsigned long long u64;

// Windows over images, all channels-last: images (n, h, w, c), p times q windows of kh times kw cells each.
struct Windows {
    int n, h, w, c;
    int p, q;
    int kh, kw;
    int sh, sw;  // stride
    int ph, pw;  // padding
};

// The number of this thread, which is the number of the output element that it computes.
__device__ __forceinline__ int element() { return blockIdx.x * blockDim.x + threadIdx.x; }

__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }

__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }

// The first and last window, along one axis, that cover a cell of the padded image.
__device__ __forceinline__ int first_window(int cell, int size, int stride)
{
    return cell < size ? 0 : (cell - size) / stride + 1;
}

__device__ __forceinline__ int last_window(int cell, int stride, int windows)
{
    return smaller(cell / stride, windows - 1);
}
