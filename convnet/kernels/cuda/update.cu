// One step of an optimiser over all parameters, one thread for each. The gradient of the weights' own penalties,
// decay · w + l1 · sign(w) where `decayed` is 1, is added first; `rates`, where not null, multiplies the step. What changes
// from step to step comes from memory (`numbers`), so that a recorded launch uses the current values. Nothing changes once the
// run has halted.

struct Penalties { real decay, l1; };

__device__ __forceinline__ real with_penalties(real w, real g, const real* decayed, const Penalties& penalties, int i)
{
    if (!decayed) return g;
    real sign = (w > 0) - (w < 0);
    return (penalties.decay * w + penalties.l1 * sign) * decayed[i] + g;
}

__device__ __forceinline__ real root(real square, real epsilon, bool inside)
{
    return inside ? sqrt(square + epsilon) : sqrt(square) + epsilon;
}

// numbers: α (1 - dampening). u ← m u + g, w ← w - numbers[0] u, or along g + m u.
extern "C" __global__ void sgd(
    real* w, const real* g, real* velocity, const real* decayed, const real* rates, const real* numbers, const int* halted,
    Penalties penalties, real momentum, bool nesterov, int count)
{
    int i = element();
    if (i >= count || halted[0]) return;
    real change = with_penalties(w[i], g[i], decayed, penalties, i);
    if (velocity) {
        real u = momentum * velocity[i] + change;
        velocity[i] = u;
        change = nesterov ? momentum * u + change : u;
    }
    change *= -numbers[0];
    w[i] += rates ? rates[i] * change : change;
}

// numbers: α. AdaGrad has keep = 1 and add = 1, RMSProp keep = decay and add = 1 - decay.
extern "C" __global__ void mean_square(
    real* w, const real* g, real* square, const real* decayed, const real* rates, const real* numbers, const int* halted,
    Penalties penalties, real keep, real add, real epsilon, bool inside, int count)
{
    int i = element();
    if (i >= count || halted[0]) return;
    real gradient = with_penalties(w[i], g[i], decayed, penalties, i);
    real s = keep * square[i] + add * (gradient * gradient);
    square[i] = s;
    real change = -numbers[0] * (gradient / root(s, epsilon, inside));
    w[i] += rates ? rates[i] * change : change;
}

// numbers: α / (1 - β₁^t), 1 / (1 - β₂^t).
extern "C" __global__ void adam(
    real* w, const real* g, real* mean, real* square, const real* decayed, const real* rates, const real* numbers, const int* halted,
    Penalties penalties, real beta1, real beta2, real epsilon, bool inside, int count)
{
    int i = element();
    if (i >= count || halted[0]) return;
    real gradient = with_penalties(w[i], g[i], decayed, penalties, i);
    real m = beta1 * mean[i] + (1 - beta1) * gradient;
    real s = beta2 * square[i] + (1 - beta2) * (gradient * gradient);
    mean[i] = m;
    square[i] = s;
    real change = -numbers[0] * m / root(numbers[1] * s, epsilon, inside);
    w[i] += rates ? rates[i] * change : change;
}
