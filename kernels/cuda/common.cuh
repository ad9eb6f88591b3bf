// Shared by all kernels: words, loads at any alignment, errors, the ordered numbering of what is selected.
//
// Plain CUDA C++ without host headers: NVRTC, nvcc and, through tests/simt/simt.h, a C++ compiler take it.
#pragma once

typedef unsigned char u8;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

constexpr u32 ALL = 0xFFFFFFFFu;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int QUADS = 4;                         // runs of 4 elements that a thread holds
constexpr int TILE = THREADS * QUADS * 4;        // elements a block takes at a time
constexpr u32 INFINITE = 0x7F800000u;            // magnitudes from here on are not finite

DEVICE int lane() { return threadIdx.x & 31; }
DEVICE int warp() { return threadIdx.x >> 5; }
DEVICE u32 magnitude(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }
DEVICE bool aligned(const void* p, u32 bytes) { return ((u64)p & (bytes - 1)) == 0; }

// -- errors --------------------------------------------------------------------------------------------------
// status[0]: the first error noted, 0 if none; [1], [2]: its numbers; [3]: the int that a call returns.

enum Error { NOT_FINITE = 1, SPARSE_INDEX = 2, SPARSE_VALUE = 3, GAPS_MANY = 4, GAPS_LONG = 5, GAPS_END = 6, MASK_BITS = 7 };
constexpr int RESULT = 3;

DEVICE void note(u64* status, Error error, u64 a = 0, u64 b = 0) {
    if (atomicCAS(&status[0], 0ull, (u64)error) == 0) {
        status[1] = a;
        status[2] = b;
    }
}

// By a whole warp: one of its lanes has met something that is not finite.
DEVICE void note_if_any(bool bad, u64* status) {
    if (__any_sync(ALL, bad) && lane() == 0) note(status, NOT_FINITE);
}

// -- loads and stores ----------------------------------------------------------------------------------------
// FAST: all of the tile is inside the arrays and all of them start on 16 bytes. Two bodies instead of a branch at
// each load, so that the compiler puts all loads of a tile before their first use.

template <bool FAST>
DEVICE void load_quad(const float* p, i64 i, i64 n, float (&x)[4]) {
    if (FAST) {
        const float4 v = *reinterpret_cast<const float4*>(p + i);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
        for (int q = 0; q < 4; ++q) x[q] = i + q < n ? p[i + q] : 0.0f;
    }
}

template <bool FAST>
DEVICE void store_quad(float* p, i64 i, i64 n, const float (&x)[4]) {
    if (FAST) {
        *reinterpret_cast<float4*>(p + i) = make_float4(x[0], x[1], x[2], x[3]);
    } else {
        for (int q = 0; q < 4; ++q)
            if (i + q < n) p[i + q] = x[q];
    }
}

// Up to 4 bytes from p as one word, the first lowest; 0 past the end.
DEVICE u32 load_word(const u8* p, i64 left) {
    if (left >= 4 && aligned(p, 4)) return *reinterpret_cast<const u32*>(p);
    u32 word = 0;
    for (int b = 0; b < 4 && b < left; ++b) word |= (u32)p[b] << 8 * b;
    return word;
}

DEVICE void store_word(u8* p, i64 left, u32 word) {
    if (left >= 4 && aligned(p, 4)) {
        *reinterpret_cast<u32*>(p) = word;
        return;
    }
    for (int b = 0; b < 4 && b < left; ++b) p[b] = (u8)(word >> 8 * b);
}

// -- within a warp -------------------------------------------------------------------------------------------

template <typename T>
DEVICE T warp_sum(T x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(ALL, x, d);
    return x;
}

template <typename T>
DEVICE T warp_scan(T x) {  // inclusive
    for (int d = 1; d < 32; d <<= 1) {
        const T y = __shfl_up_sync(ALL, x, d);
        if (lane() >= d) x += y;
    }
    return x;
}

// -- across blocks: decoupled look-back ----------------------------------------------------------------------
// (Merrill and Garland, Single-pass parallel prefix scan with decoupled look-back, 2016.) A tile publishes its own
// sum, then adds up those of the tiles before it until it meets one that knows all before itself. Tiles are numbered
// by a ticket, so that those before have started whatever order blocks run in. Flag and sum share a word, so that
// no fence is needed between them.

constexpr u64 PARTIAL = 1ull << 62, PREFIX = 2ull << 62, SUM = PARTIAL - 1;

// By all lanes of one warp. The sum over the tiles before this one; ``own`` is the tile's, below 2^62 in all.
DEVICE u64 look_back(u64* states, u32 tile, u64 own) {
    if (tile == 0) {
        if (lane() == 0) atomicExch(&states[0], PREFIX | own);
        return 0;
    }
    if (lane() == 0) atomicExch(&states[tile], PARTIAL | own);
    u64 before = 0;
    for (i64 at = (i64)tile - 1 - lane();; at -= 32) {
        u64 state = PREFIX;
        do {
            if (at >= 0) state = *reinterpret_cast<volatile u64*>(&states[at]);
            if (__all_sync(ALL, state >> 62)) break;
            __nanosleep(40);
        } while (true);
        const u32 closed = __ballot_sync(ALL, state >> 62 == 2);
        const int last = closed ? __ffs(closed) - 1 : 31;
        before += warp_sum(lane() <= last ? state & SUM : 0ull);
        if (closed) break;
    }
    if (lane() == 0) atomicExch(&states[tile], PREFIX | ((before + own) & SUM));
    return before;
}

// Two counts in one number: 16 bits each within a tile, 31 each over all tiles.
DEVICE u32 pair(u32 first, u32 second) { return first | second << 16; }
DEVICE u64 widen(u32 pair) { return (u64)(pair & 0xFFFF) << 31 | pair >> 16; }
DEVICE u64 first_of(u64 wide) { return wide >> 31; }
DEVICE u64 second_of(u64 wide) { return wide & 0x7FFFFFFF; }

struct Ordered {
    u32 counts[32];
    u32 tile;
    u64 before, total;
};

// The next tile's number, for the whole block.
DEVICE u32 take_ticket(u32* tickets, Ordered& shared) {
    __syncthreads();  // those still reading the tile before
    if (threadIdx.x == 0) shared.tile = atomicAdd(tickets, 1u);
    __syncthreads();
    return shared.tile;
}

// Numbers what the block selects: run j of all threads comes before run j + 1 of any.
//
//     run 0: t0 t1 t2 ... t255 | run 1: t0 t1 ... t255 | ...      in: each thread's pair of counts in each run
//     --------------------------------------------------->        out: the pair counted before it, in the tile
//
// shared.before and shared.total (wide pairs): of the tiles before, and of this one.
template <int RUNS>
DEVICE void number(u32 (&counts)[RUNS], u64* states, Ordered& shared) {
    for (int j = 0; j < RUNS; ++j) {
        const u32 all = warp_scan(counts[j]);
        if (lane() == 31) shared.counts[j * WARPS + warp()] = all;
        counts[j] = all - counts[j];
    }
    __syncthreads();
    if (warp() == 0) {
        const u32 mine = lane() < RUNS * WARPS ? shared.counts[lane()] : 0;
        const u32 all = warp_scan(mine);
        shared.counts[lane()] = all - mine;
        const u64 total = widen(__shfl_sync(ALL, all, 31));
        const u64 before = look_back(states, shared.tile, total);
        if (lane() == 0) shared.before = before, shared.total = total;
    }
    __syncthreads();
    for (int j = 0; j < RUNS; ++j) counts[j] += shared.counts[j * WARPS + warp()];
}
