// The part of cuBLAS that the engine calls, on the CPU: column-major products, and a log of the calls.
#include <cstring>

enum { SUCCESS = 0, INVALID_VALUE = 7, ALLOC_FAILED = 3 };

static struct { long streams, workspaces, products, math; void* stream; void* workspace; } seen;

extern "C" int cublasCreate_v2(void** handle) { *handle = &seen; return SUCCESS; }

extern "C" int cublasDestroy_v2(void*) { return SUCCESS; }

extern "C" int cublasSetStream_v2(void* handle, void* stream)
{
    seen.streams++;
    seen.stream = stream;
    seen.workspace = nullptr;  // as the library does
    return handle == &seen ? SUCCESS : INVALID_VALUE;
}

extern "C" int cublasSetWorkspace_v2(void* handle, void* workspace, size_t size)
{
    seen.workspaces++;
    seen.workspace = workspace;
    if (size) memset(workspace, 0, size);
    return handle == &seen ? SUCCESS : INVALID_VALUE;
}

extern "C" int cublasSetMathMode(void* handle, int mode)
{
    seen.math = mode;
    return handle == &seen ? SUCCESS : INVALID_VALUE;
}

extern "C" const char* cublasGetStatusString(int status) { return status == INVALID_VALUE ? "an invalid value" : "something"; }

// C = alpha op(A) op(B) + beta C, column-major; leading dimensions are checked as the library checks them.
template <class real>
static int gemm(void* handle, int ta, int tb, int m, int n, int k, const real* alpha, const real* a, int lda,
                const real* b, int ldb, const real* beta, real* c, int ldc)
{
    if (handle != &seen || !seen.workspace || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return INVALID_VALUE;
    seen.products++;
    for (long j = 0; j < n; j++)
        for (long i = 0; i < m; i++) {
            real sum = 0;
            for (long l = 0; l < k; l++) sum += (ta ? a[i * lda + l] : a[l * lda + i]) * (tb ? b[l * ldb + j] : b[j * ldb + l]);
            c[j * ldc + i] = *alpha * sum + (*beta == 0 ? 0 : *beta * c[j * ldc + i]);
        }
    return SUCCESS;
}

extern "C" int cublasSgemm_v2(void* handle, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda,
                              const float* b, int ldb, const float* beta, float* c, int ldc)
{
    return gemm(handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

extern "C" int cublasDgemm_v2(void* handle, int ta, int tb, int m, int n, int k, const double* alpha, const double* a, int lda,
                              const double* b, int ldb, const double* beta, double* c, int ldc)
{
    return gemm(handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

extern "C" long count_of(int what)
{
    return what == 0 ? seen.streams : what == 1 ? seen.workspaces : what == 2 ? seen.products : seen.math;
}
