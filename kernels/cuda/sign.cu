// One bit an element: error feedback + sign + scale + pack, its inverse, and the vote over many.
//
//   sign_pack      12.125 B an element: c = g + (e - copysign(scale, e)); bits; sums of |c|
//   sign_scales    the sums of each segment, in a fixed order: 8 B for each 1,024 elements
//   sign_residual  8 B; sign_add 8.125 B; sign_majority (m + 1) / 8 B
//
// A warp takes a chunk of 1,024 elements. Chunk c's sum of segment s goes to slot c + s: each step from one pair to
// the next raises c, s or both, so that no two pairs share a slot.
//
//     chunks     |    0    |    1    |    2    |
//     segments   |  0 |      1      |  2  | 3  |      slots 0, 1, 2, 3, 4, 5
#include "common.cuh"

constexpr int RUNS = 8;
constexpr int CHUNK = RUNS * 128;
constexpr i64 FEW = 32;  // partial sums that one thread adds up

// The segment that holds i, known to lie in low..high: the last whose start is not past i.
DEVICE i64 segment_of(const i64* bounds, i64 low, i64 high, i64 i) {
    while (low < high) {
        const i64 middle = (low + high + 1) / 2;
        if (bounds[middle] <= i)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

struct Chunk {
    i64 number, start, stop;  // of elements
    i64 first, last;          // segments
};

DEVICE Chunk chunk_of(i64 n, const i64* bounds, i64 segments) {
    Chunk chunk;
    chunk.number = (i64)blockIdx.x * WARPS + warp();
    chunk.start = chunk.number * CHUNK;
    chunk.stop = chunk.start + CHUNK < n ? chunk.start + CHUNK : n;
    chunk.first = segment_of(bounds, 0, segments - 1, chunk.start);
    chunk.last = bounds[chunk.first + 1] >= chunk.stop ? chunk.first
                                                       : segment_of(bounds, chunk.first, segments - 1, chunk.stop - 1);
    return chunk;
}

DEVICE float scale_at(const float* scales, const i64* bounds, const Chunk& chunk, i64 i) {
    const i64 at = i < chunk.stop ? i : chunk.stop - 1;
    return scales[segment_of(bounds, chunk.first, chunk.last, at)];
}

template <bool FAST>
DEVICE void correct(const float* g, const float* e, const float* e_scales, const i64* bounds, const Chunk& chunk, i64 n,
                    int half, float (&x)[RUNS][4]) {
    float y[RUNS / 2][4];
#pragma unroll
    for (int j = 0; j < RUNS / 2; ++j)
        load_quad<FAST>(g, chunk.start + (half + j) * 128 + lane() * 4, n, x[half + j]);
    if (!e) return;
#pragma unroll
    for (int j = 0; j < RUNS / 2; ++j) load_quad<FAST>(e, chunk.start + (half + j) * 128 + lane() * 4, n, y[j]);
#pragma unroll
    for (int j = 0; j < RUNS / 2; ++j)
        for (int q = 0; q < 4; ++q) {
            const float scale = scale_at(e_scales, bounds, chunk, chunk.start + (half + j) * 128 + lane() * 4 + q);
            x[half + j][q] = __fadd_rn(x[half + j][q], __fsub_rn(y[j][q], copysignf(scale, y[j][q])));
        }
}

// Lane l's 4 signs of each run -> the chunk's l-th word of 32 bits.
DEVICE u32 pack_signs(const float (&x)[RUNS][4]) {
    u32 mine = 0;
#pragma unroll
    for (int j = 0; j < RUNS; ++j) {
        u32 word = 0;
        for (int q = 0; q < 4; ++q) word |= __float_as_uint(x[j][q]) >> 31 << q;
        word <<= 4 * (lane() & 7);
        for (int d = 1; d < 8; d <<= 1) word |= __shfl_xor_sync(ALL, word, d);
        word = __shfl_sync(ALL, word, (lane() & 3) * 8);  // run j's four words go to lanes 4j..4j + 3
        if (lane() >> 2 == j) mine = word;
    }
    return mine;
}

DEVICE void sum_segments(const float (&x)[RUNS][4], const i64* bounds, const Chunk& chunk, double* partials) {
    for (i64 s = chunk.first; s <= chunk.last; ++s) {
        const i64 low = s == chunk.first ? chunk.start : bounds[s], high = s == chunk.last ? chunk.stop : bounds[s + 1];
        double sum = 0;
#pragma unroll
        for (int j = 0; j < RUNS; ++j)
            for (int q = 0; q < 4; ++q) {
                const i64 i = chunk.start + j * 128 + lane() * 4 + q;
                if (i >= low && i < high) sum += (double)fabsf(x[j][q]);
            }
        sum = warp_sum(sum);
        if (lane() == 0) partials[chunk.number + s] = sum;
    }
}

template <bool FAST>
DEVICE void pack_chunk(const float* g, const float* e, const float* e_scales, float* c, const i64* bounds,
                       const Chunk& chunk, i64 n, u8* bits, double* partials, u64* status) {
    float x[RUNS][4];
    for (int half = 0; half < RUNS; half += RUNS / 2) correct<FAST>(g, e, e_scales, bounds, chunk, n, half, x);
    bool bad = false;
#pragma unroll
    for (int j = 0; j < RUNS; ++j) {
        if (c) store_quad<FAST>(c, chunk.start + j * 128 + lane() * 4, n, x[j]);
        for (int q = 0; q < 4; ++q) {
            if (!FAST && chunk.start + j * 128 + lane() * 4 + q >= n) x[j][q] = 0.0f;
            bad |= magnitude(x[j][q]) >= INFINITE;
        }
    }
    note_if_any(bad, status);
    const u32 word = pack_signs(x);
    const i64 byte = chunk.start / 8 + lane() * 4;
    store_word(bits + byte, (n + 7) / 8 - byte, word);
    sum_segments(x, bounds, chunk, partials);
}

KERNEL(THREADS)
sign_pack(const float* g, const float* e, const float* e_scales, float* c, i64 n, const i64* bounds, i64 segments,
          u8* bits, double* partials, u64* status) {
    if (((i64)blockIdx.x * WARPS + warp()) * CHUNK >= n) return;
    const Chunk chunk = chunk_of(n, bounds, segments);
    if (chunk.start + CHUNK <= n && aligned(g, 16) && aligned(e, 16) && aligned(c, 16))
        pack_chunk<true>(g, e, e_scales, c, bounds, chunk, n, bits, partials, status);
    else
        pack_chunk<false>(g, e, e_scales, c, bounds, chunk, n, bits, partials, status);
}

// A block takes ``each`` segments: one thread each for those of few partial sums, all threads for a longer one.
KERNEL(THREADS)
sign_scales(const double* partials, const i64* bounds, i64 segments, int each, float* scales) {
    __shared__ double sums[WARPS];
    const i64 start = (i64)blockIdx.x * each, stop = start + each < segments ? start + each : segments;
    for (i64 s = start + threadIdx.x; s < stop; s += THREADS) {
        const i64 low = bounds[s], high = bounds[s + 1], first = low / CHUNK, last = (high - 1) / CHUNK;
        if (last - first >= FEW) continue;
        double sum = 0;
        if (high > low)
            for (i64 c = first; c <= last; ++c) sum += partials[c + s];
        scales[s] = high > low ? (float)(sum / (double)(high - low)) : 0.0f;
    }
    for (i64 s = start; s < stop; ++s) {
        const i64 low = bounds[s], high = bounds[s + 1], first = low / CHUNK, last = (high - 1) / CHUNK;
        if (last - first < FEW) continue;
        double sum = 0;
        for (i64 c = first + threadIdx.x; c <= last; c += THREADS) sum += partials[c + s];
        sum = warp_sum(sum);
        if (lane() == 0) sums[warp()] = sum;
        __syncthreads();
        if (threadIdx.x == 0) {
            sum = 0;
            for (int w = 0; w < WARPS; ++w) sum += sums[w];
            scales[s] = (float)(sum / (double)(high - low));
        }
        __syncthreads();
    }
}

KERNEL(THREADS)
sign_residual(const float* c, i64 n, const i64* bounds, i64 segments, const float* scales, float* out) {
    if (((i64)blockIdx.x * WARPS + warp()) * CHUNK >= n) return;
    const Chunk chunk = chunk_of(n, bounds, segments);
    const bool fast = chunk.start + CHUNK <= n && aligned(c, 16) && aligned(out, 16);
#pragma unroll 4
    for (int j = 0; j < RUNS; ++j) {
        const i64 i = chunk.start + j * 128 + lane() * 4;
        float x[4];
        if (fast)
            load_quad<true>(c, i, n, x);
        else
            load_quad<false>(c, i, n, x);
        for (int q = 0; q < 4; ++q)
            x[q] = __fsub_rn(x[q], copysignf(scale_at(scales, bounds, chunk, i + q), x[q]));
        if (fast)
            store_quad<true>(out, i, n, x);
        else
            store_quad<false>(out, i, n, x);
    }
}

KERNEL(THREADS)
sign_add(const u8* bits, i64 n, const i64* bounds, i64 segments, const float* scales, float weight, float* out) {
    if (((i64)blockIdx.x * WARPS + warp()) * CHUNK >= n) return;
    const Chunk chunk = chunk_of(n, bounds, segments);
    const bool fast = chunk.start + CHUNK <= n && aligned(out, 16);
#pragma unroll 4
    for (int j = 0; j < RUNS; ++j) {
        const i64 i = chunk.start + j * 128 + lane() * 4;
        float x[4];
        const u32 signs = i < n ? (u32)bits[i / 8] >> (i & 4) : 0;
        if (fast)
            load_quad<true>(out, i, n, x);
        else
            load_quad<false>(out, i, n, x);
        for (int q = 0; q < 4; ++q) {
            const float step = __fmul_rn(weight, scale_at(scales, bounds, chunk, i + q));
            x[q] = __fadd_rn(x[q], signs >> q & 1 ? -step : step);
        }
        if (fast)
            store_quad<true>(out, i, n, x);
        else
            store_quad<false>(out, i, n, x);
    }
}

// 32 votes at a time: plane p holds bit p of the 32 counts, and a row is added as a carry through the planes.
KERNEL(THREADS)
sign_majority(const u8* rows, u32 m, i64 nbytes, u8* out) {
    const i64 at = ((i64)blockIdx.x * THREADS + threadIdx.x) * 4;
    if (at >= nbytes) return;
    u32 planes[32];
#pragma unroll
    for (int p = 0; p < 32; ++p) planes[p] = 0;
    for (u32 row = 0; row < m; ++row) {
        u32 carry = load_word(rows + row * nbytes + at, nbytes - at);
#pragma unroll
        for (int p = 0; p < 32; ++p) {
            if (!carry) break;
            const u32 sum = planes[p] ^ carry;
            carry &= planes[p];
            planes[p] = sum;
        }
    }
    // count > m / 2 rounded down, from the highest bit on.
    u32 more = 0, same = ALL;
#pragma unroll
    for (int p = 31; p >= 0; --p) {
        const u32 bit = m / 2 >> p & 1 ? ALL : 0;
        more |= same & planes[p] & ~bit;
        same &= ~(planes[p] ^ bit);
    }
    store_word(out + at, nbytes - at, more);
}
