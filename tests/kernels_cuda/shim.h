// Runs CUDA kernels on the CPU, for tests: the few CUDA words that the sources use, and loops over blocks and threads.
//
// Threads of a block run one after the other. Where a kernel has barriers they run as fibers, each up to the next barrier, and
// all of them must reach the same barriers. Shared memory is a static array: blocks run one after the other as well.
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(threads)
#define __syncthreads() shim::barrier()

using std::exp;
using std::log;
using std::sqrt;

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

namespace shim {

enum Outcome { FINE = 0, BARRIER_WITHOUT_FIBERS = 1, BARRIER_NOT_REACHED_BY_ALL = 2 };

const size_t STACK = 1 << 15;

struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool finished;
};

static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static Fiber* current = nullptr;
static Outcome outcome;

template <class Body> struct Entry {
    static Body* body;
    static void run()
    {
        (*body)();
        current->finished = true;
        swapcontext(&current->context, &scheduler);
    }
};
template <class Body> Body* Entry<Body>::body = nullptr;

inline void barrier()
{
    if (!current) {
        outcome = BARRIER_WITHOUT_FIBERS;
        return;
    }
    swapcontext(&current->context, &scheduler);
}

inline void place(unsigned thread)
{
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

// Run the threads of one block as fibers, in ascending or descending order: correct kernels cannot tell.
template <class Body> void block_of_fibers(Body& body, unsigned threads, bool descending)
{
    if (fibers.size() < threads) fibers.resize(threads);
    Entry<Body>::body = &body;
    for (unsigned t = 0; t < threads; t++) {
        Fiber& fiber = fibers[t];
        fiber.stack.resize(STACK);
        fiber.finished = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &Entry<Body>::run, 0);
    }
    for (;;) {
        unsigned finished = 0;
        for (unsigned k = 0; k < threads; k++) {
            unsigned t = descending ? threads - 1 - k : k;
            if (!fibers[t].finished) {
                place(t);
                current = &fibers[t];
                swapcontext(&scheduler, &current->context);
                current = nullptr;
            }
            finished += fibers[t].finished;
        }
        if (finished == threads) return;
        if (finished) {
            outcome = BARRIER_NOT_REACHED_BY_ALL;
            return;
        }
    }
}

template <class Body> int run(Body body, const unsigned* grid, const unsigned* block, bool with_fibers, bool descending)
{
    outcome = FINE;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    unsigned threads = block[0] * block[1] * block[2], blocks = grid[0] * grid[1] * grid[2];
    for (unsigned k = 0; k < blocks && outcome == FINE; k++) {
        unsigned b = descending ? blocks - 1 - k : k;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (with_fibers) {
            block_of_fibers(body, threads, descending);
            continue;
        }
        for (unsigned j = 0; j < threads && outcome == FINE; j++) {
            place(descending ? threads - 1 - j : j);
            body();
        }
    }
    return outcome;
}

// Call `kernel` with arguments given as CUDA's launch functions take them: an array of pointers to the values.
template <class... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>)
{
    kernel(*static_cast<Parameters*>(arguments[I])...);
}

template <class... Parameters>
int launch(
    void (*kernel)(Parameters...), const unsigned* grid, const unsigned* block, void** arguments, bool with_fibers,
    bool descending)
{
    auto body = [=] { call(kernel, arguments, std::index_sequence_for<Parameters...>()); };
    return run(body, grid, block, with_fibers, descending);
}

}  // namespace shim
