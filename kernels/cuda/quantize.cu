// Stochastic quantisation to ``width`` bits with a scale for each block, and its inverse.
//
//   quantize_small  blocks up to 1,024: one pass, 12 + width / 8 B an element; part of a warp takes a block
//   quantize_scale  larger blocks: 8 B an element for the largest magnitudes, then
//   quantize_large  12 + width / 8 B
//   quantize_add    8 + width / 8 B: out += weight * value
//
// A lane takes 8 elements: their codes fill ``width`` whole bytes.
#include "common.cuh"

constexpr int ROUNDS = 4;       // of a warp over a block of 1,024: 32 lanes * 8 elements * 4
constexpr int SMALL = ROUNDS * 256;
constexpr float LARGEST = 3.40282346638528859812e38f;  // finite: with a scale of 0, all is level 0

struct Rule {
    int width;
    float levels;
    u32 key0, key1;
};

DEVICE Rule rule_of(int width, u64 key) { return {width, (float)((1 << (width - 1)) - 1), (u32)key, (u32)(key >> 32)}; }

// hpc_fl/backends/uniform.py says where it is from.
DEVICE u32 drawn(const Rule& rule, u64 pair) {
    u32 x = (u32)pair + rule.key0 + (u32)(pair >> 32) * 0x9E3779B9u;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x += rule.key1;
    x *= 0x846CA68Bu;
    return x ^ x >> 16;
}

DEVICE float uniform(u32 half) { return __fadd_rn((float)half * 1.52587890625e-5f, 7.62939453125e-6f); }

// 8 elements from i on; zeros past n.
DEVICE void load_eight(const float* g, const float* e, i64 i, i64 n, float (&x)[8]) {
    float low[4], high[4], y[4];
    const bool fast = i + 8 <= n && aligned(g, 16) && aligned(e, 16);
    if (fast) {
        load_quad<true>(g, i, n, low);
        load_quad<true>(g, i + 4, n, high);
    } else {
        load_quad<false>(g, i, n, low);
        load_quad<false>(g, i + 4, n, high);
    }
    for (int q = 0; q < 4; ++q) x[q] = low[q], x[4 + q] = high[q];
    if (!e) return;
    for (int half = 0; half < 8; half += 4) {
        if (fast)
            load_quad<true>(e, i + half, n, y);
        else
            load_quad<false>(e, i + half, n, y);
        for (int q = 0; q < 4; ++q) x[half + q] = __fadd_rn(x[half + q], y[q]);
    }
}

DEVICE u32 largest(const float (&x)[8]) {
    u32 most = 0;
    for (int q = 0; q < 8; ++q) most = max(most, magnitude(x[q]));
    return most;
}

DEVICE void store_codes(u8* p, int width, u64 word) {
    if (width == 8 && aligned(p, 8)) {
        *reinterpret_cast<u64*>(p) = word;
    } else if (width == 4 && aligned(p, 4)) {
        *reinterpret_cast<u32*>(p) = (u32)word;
    } else {
        for (int b = 0; b < width; ++b) p[b] = (u8)(word >> 8 * b);
    }
}

// Codes of 8 elements, and what is kept of them.
DEVICE void quantize_eight(const Rule& rule, float scale, i64 i, i64 n, const float (&x)[8], float* c, u8* codes) {
    const float unit = __fdiv_rn(scale, rule.levels), inverse = fminf(__fdiv_rn(rule.levels, scale), LARGEST);
    u64 word = 0;
    u32 both = 0;
    for (int q = 0; q < 8; ++q) {
        if (i + q >= n) break;
        both = q % 2 ? both >> 16 : drawn(rule, (u64)(i + q) / 2);
        const float share = __fmul_rn(fabsf(x[q]), inverse);
        const float level = fminf(floorf(__fadd_rn(share, uniform(both & 0xFFFF))), rule.levels);
        // Where it is not finite the result is not defined, but the conversion must be.
        const u32 whole = level >= 0.0f ? (u32)level : 0u;
        const u64 code = whole | __float_as_uint(x[q]) >> 31 << (rule.width - 1);
        word |= code << rule.width * q;
        if (c) c[i + q] = __fsub_rn(x[q], copysignf(__fmul_rn(level, unit), x[q]));
    }
    store_codes(codes + i / 8 * rule.width, rule.width, word);
}

// ``lanes``: the power of two that takes a block; 32 / lanes blocks for a warp.
KERNEL(THREADS)
quantize_small(const float* g, const float* e, float* c, i64 n, int width, int block, int lanes, u64 key, u8* codes,
               float* scales, u64* status) {
    const Rule rule = rule_of(width, key);
    const int groups = block / 8, mine = lane() & (lanes - 1);
    const i64 number = ((i64)blockIdx.x * WARPS + warp()) * (32 / lanes) + lane() / lanes, start = number * block;
    float x[ROUNDS][8];
    u32 most = 0;
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const int group = r * 32 + mine;
        const bool on = group < groups && (r == 0 || lanes == 32) && start + group * 8 < n;
        if (on) {
            load_eight(g, e, start + group * 8, n, x[r]);
            most = max(most, largest(x[r]));
        }
    }
    for (int d = 1; d < lanes; d <<= 1) most = max(most, __shfl_xor_sync(ALL, most, d));
    note_if_any(most >= INFINITE, status);
    const float scale = __uint_as_float(most);
    if (mine == 0 && start < n) scales[number] = scale;
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const int group = r * 32 + mine;
        const bool on = group < groups && (r == 0 || lanes == 32) && start + group * 8 < n;
        if (on) quantize_eight(rule, scale, start + group * 8, n, x[r], c, codes);
    }
}

// Scales start as 0. The bits of magnitudes order as the magnitudes do.
KERNEL(THREADS)
quantize_scale(const float* g, const float* e, i64 n, i64 block, float* scales, u64* status) {
    const i64 base = ((i64)blockIdx.x * WARPS + warp()) * SMALL;
    if (base >= n) return;
    const i64 stop = base + SMALL < n ? base + SMALL : n;
    const bool one = base / block == (stop - 1) / block;
    u32 most = 0;
    bool bad = false;
#pragma unroll
    for (int r = 0; r < ROUNDS; ++r) {
        const i64 i = base + (r * 32 + lane()) * 8;
        if (i >= n) continue;
        float x[8];
        load_eight(g, e, i, n, x);
        const u32 own = largest(x);
        bad |= own >= INFINITE;
        most = max(most, own);
        if (!one) atomicMax(reinterpret_cast<u32*>(&scales[i / block]), own);
    }
    note_if_any(bad, status);
    for (int d = 1; d < 32; d <<= 1) most = max(most, __shfl_xor_sync(ALL, most, d));
    // A look before the atomic: all warps of a large block meet at one word.
    u32* scale = reinterpret_cast<u32*>(&scales[base / block]);
    if (one && lane() == 0 && most > *(volatile u32*)scale) atomicMax(scale, most);
}

KERNEL(THREADS)
quantize_large(const float* g, const float* e, float* c, i64 n, int width, i64 block, u64 key, u8* codes,
               const float* scales) {
    const Rule rule = rule_of(width, key);
    const i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    float x[8];
    load_eight(g, e, i, n, x);
    quantize_eight(rule, scales[i / block], i, n, x, c, codes);
}

KERNEL(THREADS)
quantize_add(const u8* codes, const float* scales, int width, i64 block, float weight, float* out, i64 n) {
    const i64 i = ((i64)blockIdx.x * THREADS + threadIdx.x) * 8;
    if (i >= n) return;
    const float levels = (float)((1 << (width - 1)) - 1), unit = __fdiv_rn(scales[i / block], levels);
    const u8* p = codes + i / 8 * width;
    u64 word = 0;
    for (int b = 0; b < width; ++b) word |= (u64)p[b] << 8 * b;
    const u32 mask = (1u << (width - 1)) - 1;
    float x[8];
    load_eight(out, nullptr, i, n, x);
    for (int q = 0; q < 8; ++q) {
        const u32 code = (u32)(word >> width * q);
        const float value = __fmul_rn((float)(code & mask), unit);
        x[q] = __fadd_rn(x[q], __fmul_rn(weight, code >> (width - 1) & 1 ? -value : value));
        if (i + q < n) out[i + q] = x[q];
    }
}
