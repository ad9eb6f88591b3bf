// Error feedback + exact top-k, ascending by index.
//
//   sample    1 block: guesses a magnitude ``low`` that somewhat more than k elements exceed; the hint, where given
//   collect   12 B an element: c = g + e; what exceeds low, and the first k equal to it, goes to a list in order
//   digit x3  radix histograms of the list: the k-th magnitude; nothing to do where low turns out to be it
//   emit      the list, filtered in order: indices, values, zeros in c
//
// The result never depends on the guess. Where it was bad (too few exceed it, or more than the list takes), digit
// and emit go over c itself: 4 x 4 B more an element. All of that is decided on the device. Magnitudes are the 31
// bits below the sign: three digits of 11, 10 and 10 bits.
#include "common.cuh"

constexpr int BINS = 2048;
constexpr int SAMPLE_THREADS = 1024;
constexpr int SAMPLES = 32;  // a thread's
constexpr u32 NOWHERE = 0x7FFFFFFFu;

enum Source { LIST = 0, ALL_OF_IT = 1, KNOWN = 2 };

struct TopK {  // zero at the start of a call
    u32 tickets[2];
    u32 done[3];
    int low;
    u32 source;
    u32 size;       // of the source
    u32 threshold;  // the digits found so far; in the end the k-th magnitude
    u32 ties;       // how many of those that match the digits are to be taken
    u32 bins[3][BINS];
};
static_assert(sizeof(TopK) == 24616, "hpc_fl/backends/cuda.py takes room for it");

DEVICE int digit_shift(int level) { return level == 0 ? 20 : level == 1 ? 10 : 0; }

// Finds the digit that the rank-th largest element has: (digit, the rank among those with it). By the whole block.
struct Found {
    u32 counts[32];
    u32 digit, rank;
};

DEVICE void find_digit(const u32* bins, u32 rank, Found& found) {
    // Thread t has the bins of a run, the largest first: t = 0 the topmost.
    const int run = BINS / blockDim.x, warps = blockDim.x / 32, top = BINS - 1 - run * threadIdx.x;
    u32 own = 0;
    for (int b = 0; b < run; ++b) own += bins[top - b];
    const u32 upto = warp_scan(own);
    if (lane() == 31) found.counts[warp()] = upto;
    __syncthreads();
    if (warp() == 0) {
        const u32 mine = lane() < warps ? found.counts[lane()] : 0;
        const u32 all = warp_scan(mine);
        found.counts[lane()] = all - mine;
    }
    __syncthreads();
    u32 above = found.counts[warp()] + upto - own;
    if (above < rank && rank <= above + own) {
        int b = top;
        for (; above + bins[b] < rank; --b) above += bins[b];
        found.digit = b;
        found.rank = rank - above;
    }
    __syncthreads();
}

// Adds one to bins[bin] for each lane with ``on``; once where the whole warp has the same, as tied data do.
DEVICE void count(u32* bins, u32 bin, bool on) {
    const u32 voters = __ballot_sync(ALL, on);
    if (!voters) return;
    const int first = __ffs(voters) - 1;
    const u32 leader = __shfl_sync(ALL, bin, first);
    if (__all_sync(ALL, !on || bin == leader)) {
        if (lane() == first) atomicAdd(&bins[leader], (u32)__popc(voters));
    } else if (on) {
        atomicAdd(&bins[bin], 1u);
    }
}

// How far down a sample of ``size`` the guess is taken: six standard deviations below the k-th of n.
DEVICE u32 sample_rank(u32 k, u32 n, u32 size) {
    if (size == n) return k;
    const float mean = (float)((double)k * size / n);
    return (u32)(mean + 6.0f * sqrtf(mean) + 8.0f);
}

// One element of the sample: runs of 8, one in each of equal parts of the buffer, somewhere in it.
DEVICE i64 sample_at(u32 s, i64 n, u32 size) {
    if (size == n) return s;
    const u32 run = s / 8, runs = size / 8;
    const i64 part = n / runs;
    const u32 mixed = (run + 1) * 2654435761u;
    return run * part + (i64)((mixed >> 8) % (u32)(part - 7)) + s % 8;
}

KERNEL(SAMPLE_THREADS)
topk_sample(const float* g, const float* e, i64 n, u32 k, float hint, const float* hint_at, TopK* state) {
    __shared__ u32 bins[BINS];
    __shared__ Found found;
    const float given = hint_at ? *hint_at : hint, h = magnitude(given) < INFINITE ? given : 0.0f;
    const u32 size = n < SAMPLE_THREADS * SAMPLES ? (u32)n : SAMPLE_THREADS * SAMPLES;
    const u32 rank = sample_rank(k, (u32)n, size);
    if (k == 0 || h > 0.0f || rank > size) {  // the same for all threads
        if (threadIdx.x == 0) {
            // A 16th of an octave below the hint: 3 to 6%.
            const int lowered = (int)magnitude(h) - (1 << 19);
            state->low = k == 0 ? (int)NOWHERE : h > 0.0f && lowered > 0 ? lowered : -1;
        }
        return;
    }
    u32 x[SAMPLES];
#pragma unroll
    for (int j = 0; j < SAMPLES; ++j) {
        const u32 s = j * SAMPLE_THREADS + threadIdx.x;
        const i64 i = sample_at(s, n, size);
        x[j] = s < size ? magnitude(e ? __fadd_rn(g[i], e[i]) : g[i]) : 0;
    }
    u32 prefix = 0, left = rank;
    for (int level = 0; level < 3; ++level) {
        const int shift = digit_shift(level), high = level == 0 ? 31 : shift + 10;
        for (int b = threadIdx.x; b < BINS; b += SAMPLE_THREADS) bins[b] = 0;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < SAMPLES; ++j) {
            if ((u32)(j * SAMPLE_THREADS) >= size) continue;  // the same for all threads
            const bool on = j * SAMPLE_THREADS + threadIdx.x < size && x[j] >> high == prefix >> high;
            count(bins, x[j] >> shift & (level ? 1023u : 2047u), on);
        }
        __syncthreads();
        find_digit(bins, left, found);
        prefix |= found.digit << shift;
        left = found.rank;
        __syncthreads();
    }
    if (threadIdx.x == 0) state->low = (int)prefix;
}

// What a thread holds of a tile: c, and for each run of 4 which are above a bound and which equal it.
struct Held {
    float x[QUADS][4];
    u32 above[QUADS], equal[QUADS];
};

template <bool FAST>
DEVICE bool add_tile(const float* g, const float* e, float* c, i64 n, i64 start, int low, Held& held) {
    bool bad = false;
#pragma unroll
    for (int j = 0; j < QUADS; ++j) load_quad<FAST>(g, start + j * THREADS * 4, n, held.x[j]);
    if (e) {
        float y[QUADS][4];
#pragma unroll
        for (int j = 0; j < QUADS; ++j) load_quad<FAST>(e, start + j * THREADS * 4, n, y[j]);
#pragma unroll
        for (int j = 0; j < QUADS; ++j)
            for (int q = 0; q < 4; ++q) held.x[j][q] = __fadd_rn(held.x[j][q], y[j][q]);
    }
#pragma unroll
    for (int j = 0; j < QUADS; ++j) {
        const i64 i = start + j * THREADS * 4;
        if (c) store_quad<FAST>(c, i, n, held.x[j]);
        held.above[j] = held.equal[j] = 0;
        for (int q = 0; q < 4; ++q) {
            const u32 m = magnitude(held.x[j][q]);
            bad |= m >= INFINITE;
            if (FAST || i + q < n) {
                held.above[j] |= (u32)((int)m > low) << q;
                held.equal[j] |= (u32)((int)m == low) << q;
            }
        }
    }
    return bad;
}

// After the last tile: where the k-th magnitude is to be looked for.
DEVICE void decide(TopK* state, u64 counts, u32 k, u32 room, i64 n) {
    const u64 above = first_of(counts), equal = second_of(counts) < k ? second_of(counts) : k;
    state->ties = k;
    if (above > room || above + equal < k) {
        state->source = ALL_OF_IT;
        state->size = (u32)n;
        return;
    }
    state->source = above < k || k == 0 ? KNOWN : LIST;
    state->size = (u32)(above + equal);
    if (state->source == KNOWN) {
        state->threshold = (u32)state->low;
        state->ties = (u32)(k - above);
    }
}

KERNEL(THREADS)
topk_collect(const float* g, const float* e, float* c, i64 n, u32 k, u32 room, int* list_indices,
             float* list_values, TopK* state, u64* states, u64* status) {
    __shared__ Ordered shared;
    const u32 tile = take_ticket(&state->tickets[0], shared);
    const i64 base = (i64)tile * TILE, start = base + threadIdx.x * 4;
    const int low = state->low;
    const bool fast = base + TILE <= n && aligned(g, 16) && aligned(e, 16) && aligned(c, 16);
    Held held;
    const bool bad =
        fast ? add_tile<true>(g, e, c, n, start, low, held) : add_tile<false>(g, e, c, n, start, low, held);
    note_if_any(bad, status);
    u32 before[QUADS];
    for (int j = 0; j < QUADS; ++j) before[j] = pair(__popc(held.above[j]), __popc(held.equal[j]));
    number<QUADS>(before, states, shared);
    for (int j = 0; j < QUADS; ++j) {
        if (!(held.above[j] | held.equal[j])) continue;
        const u64 at = shared.before + widen(before[j]);
        u64 above = first_of(at), equal = second_of(at);
        for (int q = 0; q < 4; ++q) {
            const bool is_above = held.above[j] >> q & 1, is_equal = held.equal[j] >> q & 1;
            const u64 place = above + (equal < k ? equal : k);
            if ((is_above && above < room) || (is_equal && equal < k && above <= room)) {
                list_indices[place] = (int)(start + j * THREADS * 4 + q);
                list_values[place] = held.x[j][q];
            }
            above += is_above;
            equal += is_equal;
        }
    }
    if (threadIdx.x == 0 && base + TILE >= n) decide(state, shared.before + shared.total, k, room, n);
}

// The i-th value of the source. Where c is kept it holds g + e already, and g may be its memory.
DEVICE float value_of(u32 source, const float* list_values, const float* g, const float* e, const float* c, u32 i) {
    if (source == ALL_OF_IT) return c ? c[i] : e ? __fadd_rn(g[i], e[i]) : g[i];
    return list_values[i];
}

KERNEL(THREADS)
topk_digit(int level, const float* list_values, const float* g, const float* e, const float* c, TopK* state) {
    __shared__ u32 bins[BINS];
    __shared__ Found found;
    __shared__ bool last;
    const u32 source = state->source, size = state->size, prefix = state->threshold, rank = state->ties;
    if (source == KNOWN) return;
    const int shift = digit_shift(level), high = level == 0 ? 31 : shift + 10;
    for (int b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
    __syncthreads();
    for (i64 base = (i64)blockIdx.x * THREADS * 4; base < size; base += (i64)gridDim.x * THREADS * 4) {
        u32 m[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const i64 i = base + q * THREADS + threadIdx.x;
            m[q] = i < size ? magnitude(value_of(source, list_values, g, e, c, (u32)i)) : ~0u;
        }
#pragma unroll
        for (int q = 0; q < 4; ++q)  // past the end bit 31 is set, which no magnitude has
            count(bins, m[q] >> shift & (level ? 1023u : 2047u), m[q] >> 31 == 0 && m[q] >> high == prefix >> high);
    }
    __syncthreads();
    for (int b = threadIdx.x; b < BINS; b += THREADS)
        if (bins[b]) atomicAdd(&state->bins[level][b], bins[b]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&state->done[level], 1u) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int b = threadIdx.x; b < BINS; b += THREADS) bins[b] = *(volatile u32*)&state->bins[level][b];
    __syncthreads();
    find_digit(bins, rank, found);
    if (threadIdx.x == 0) {
        state->threshold = prefix | found.digit << shift;
        state->ties = found.rank;
    }
}

KERNEL(THREADS)
topk_emit(const int* list_indices, const float* list_values, const float* g, const float* e, float* c, u32 k,
          int* indices, float* values, float* least, TopK* state, u64* states) {
    __shared__ Ordered shared;
    const u32 source = state->source, size = state->size, threshold = state->threshold, ties = state->ties;
    if (blockIdx.x == 0 && threadIdx.x == 0) *least = __uint_as_float(k ? threshold : INFINITE);
    for (;;) {
        const u32 tile = take_ticket(&state->tickets[1], shared);
        if ((i64)tile * THREADS * QUADS >= size) return;
        u32 before[QUADS], kinds[QUADS];
        float x[QUADS];
        const i64 start = (i64)tile * THREADS * QUADS + threadIdx.x;
#pragma unroll
        for (int j = 0; j < QUADS; ++j) {
            const i64 i = start + j * THREADS;
            x[j] = i < size ? value_of(source, list_values, g, e, c, (u32)i) : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < QUADS; ++j) {
            const u32 m = magnitude(x[j]);
            const bool inside = start + j * THREADS < size;
            kinds[j] = before[j] = pair(inside && m > threshold, inside && m == threshold);
        }
        number<QUADS>(before, states, shared);
#pragma unroll
        for (int j = 0; j < QUADS; ++j) {
            const u64 at = shared.before + widen(before[j]);
            const u64 above = first_of(at), equal = second_of(at), place = above + (equal < ties ? equal : ties);
            if (!kinds[j] || (kinds[j] >> 16 && equal >= ties) || place >= k) continue;
            const u32 i = (u32)(start + j * THREADS);
            const u32 index = source == ALL_OF_IT ? i : (u32)list_indices[i];
            indices[place] = (int)index;
            values[place] = x[j];
            if (c) c[index] = 0.0f;
        }
    }
}
