// Runs CUDA kernels on the CPU, for tests: the few CUDA words that the sources use, and loops over blocks and threads.
//
// Threads of a block run one after the other. Where a kernel has barriers they run as fibers, each up to the next barrier, and
// all of them must reach the same barriers. Shared memory is a static array: blocks run one after the other as well.
// The checked version of longjmp takes a jump to another stack for an error.
#undef _FORTIFY_SOURCE

#include <setjmp.h>
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
#define __launch_bounds__(...)
#define __syncthreads() shim::barrier()

using std::exp;
using std::log1p;
using std::log;
using std::sqrt;

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }

// Blocks run one after the other.
static inline unsigned atomicAdd(unsigned* place, unsigned more)
{
    unsigned before = *place;
    *place += more;
    return before;
}

static inline void __threadfence() {}

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

namespace shim {

enum Outcome { FINE = 0, BARRIER_WITHOUT_FIBERS = 1, BARRIER_NOT_REACHED_BY_ALL = 2 };

const size_t STACK = 1 << 15;

// A thread of a block, with a stack of its own. It runs one body after the other, and is made once: ucontext starts it, and the
// much cheaper _setjmp and _longjmp switch from then on.
struct Fiber {
    std::vector<char> stack;
    jmp_buf resume;
    bool started, finished;
};

static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static Fiber* current = nullptr;
static Outcome outcome;
static void (*body_of_fibers)(void*);
static void* argument_of_body;

inline void leave()
{
    if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
}

inline void live()
{
    for (;;) {
        body_of_fibers(argument_of_body);
        current->finished = true;
        leave();
    }
}

inline void enter(Fiber& fiber)
{
    current = &fiber;
    if (!_setjmp(scheduler)) {
        if (fiber.started) _longjmp(fiber.resume, 1);
        fiber.started = true;
        static ucontext_t context;
        fiber.stack.resize(STACK);
        getcontext(&context);
        context.uc_stack.ss_sp = fiber.stack.data();
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, &live, 0);
        setcontext(&context);
    }
    current = nullptr;
}

inline void barrier()
{
    if (current)
        leave();
    else
        outcome = BARRIER_WITHOUT_FIBERS;
}

inline void place(unsigned thread)
{
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

// Run the threads of one block as fibers, in ascending or descending order: correct kernels cannot tell.
inline void block_of_fibers(unsigned threads, bool descending)
{
    if (fibers.size() < threads) fibers.resize(threads);
    for (unsigned t = 0; t < threads; t++) fibers[t].finished = false;
    for (;;) {
        unsigned finished = 0;
        for (unsigned k = 0; k < threads; k++) {
            unsigned t = descending ? threads - 1 - k : k;
            if (!fibers[t].finished) {
                place(t);
                enter(fibers[t]);
            }
            finished += fibers[t].finished;
        }
        if (finished == threads) return;
        if (finished) {
            outcome = BARRIER_NOT_REACHED_BY_ALL;
            fibers.clear();  // some of them are in the middle of a body
            return;
        }
    }
}

template <class Body> int run(Body body, const unsigned* grid, const unsigned* block, bool with_fibers, bool descending)
{
    outcome = FINE;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    body_of_fibers = [](void* argument) { (*static_cast<Body*>(argument))(); };
    argument_of_body = &body;
    unsigned threads = block[0] * block[1] * block[2], blocks = grid[0] * grid[1] * grid[2];
    for (unsigned k = 0; k < blocks && outcome == FINE; k++) {
        unsigned b = descending ? blocks - 1 - k : k;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (with_fibers) {
            block_of_fibers(threads, descending);
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
