// Philox4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, 2011), the counter and the order of
// words as in numpy.random.Philox(key=[draw, stream]).random_raw: block i of four 64-bit words has the counter i + 1.

__device__ __forceinline__ void philox(u64 counter, u64 key0, u64 key1, u64* word)
{
    u64 c0 = counter, c1 = 0, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++) {
        u64 high0 = __umul64hi(0xD2E7470EE14C6C93ull, c0), low0 = 0xD2E7470EE14C6C93ull * c0;
        u64 high1 = __umul64hi(0xCA5A826395121157ull, c2), low1 = 0xCA5A826395121157ull * c2;
        c0 = high1 ^ c1 ^ key0;
        c1 = low1;
        c2 = high0 ^ c3 ^ key1;
        c3 = low0;
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
    word[0] = c0; word[1] = c1; word[2] = c2; word[3] = c3;
}

// Each thread turns one block of Philox, eight 32-bit numbers, into eight factors: 0 where the number is below the
// threshold, `kept` elsewhere. The draw is read from memory, so that a recorded launch uses the current one.
extern "C" __global__ void dropout_factors(const u64* draw, u64 stream, u64 threshold, real kept, real* factors, int count)
{
    int block = element();
    if (block >= (count + 7) / 8) return;
    u64 word[4];
    philox((u64)block + 1, draw[0], stream, word);
    int left = count - 8 * block;
    #pragma unroll
    for (int j = 0; j < 8; j++) {
        u32 bits = (u32)(word[j / 2] >> (32 * (j % 2)));
        if (j < left) factors[8 * block + j] = bits >= threshold ? kept : real(0);
    }
}
