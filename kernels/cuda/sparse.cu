// Sparse payloads: (index, value) pairs, ascending by index.
//
//   sparse_check    8 B a pair: are the indices what they must be, the values finite?
//   sparse_scatter  8 B a pair + 8 B at each place of out; nothing where the check has failed
//   sparse_merge    16 B a pair at most: the union of two, in one pass
#include "common.cuh"

constexpr int ITEMS = 8;  // of the merged order, for each thread
constexpr u32 BAD_INDEX = 1, BAD_VALUE = 2;

KERNEL(THREADS)
sparse_check(const int* indices, const float* values, i64 k, i64 n, u32* found) {
    const i64 j = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (j >= k) return;
    const i64 index = indices[j], before = j ? indices[j - 1] : -1;
    u32 bad = index <= before || index >= n ? BAD_INDEX : 0;
    if (magnitude(values[j]) >= INFINITE) bad |= BAD_VALUE;
    if (bad) atomicOr(found, bad);
}

KERNEL(THREADS)
sparse_scatter(const int* indices, const float* values, i64 k, float weight, float* out, i64 n, const u32* found,
               u64* status) {
    const i64 j = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (*found) {
        if (j == 0) note(status, *found & BAD_INDEX ? SPARSE_INDEX : SPARSE_VALUE, (u64)n);
        return;
    }
    if (j >= k) return;
    float* place = out + indices[j];
    *place = __fadd_rn(*place, __fmul_rn(weight, values[j]));
}

struct Pairs {
    const int* indices;
    const float* values;
    i64 size;
};

// How many of a are among the first ``diagonal`` of the merged order, where a comes before an equal b; the answer
// is known to lie in low..high. (Green, McColl and Bader, GPU Merge Path, 2012.)
DEVICE i64 split(const Pairs& a, const Pairs& b, i64 diagonal, i64 low, i64 high) {
    low = max(low, diagonal - b.size);
    high = min(high, min(diagonal, a.size));
    while (low < high) {
        const i64 middle = (low + high) / 2;
        if (a.indices[middle] <= b.indices[diagonal - 1 - middle])
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Walks the merged order from (i, j): an element of b equal to the one of a before it was added to that already.
DEVICE u32 walk(const Pairs& a, const Pairs& b, i64 i, i64 j, int (&indices)[ITEMS], float (&values)[ITEMS]) {
    u32 kept = 0;
#pragma unroll
    for (int step = 0; step < ITEMS; ++step) {
        if (i >= a.size && j >= b.size) break;
        if (j >= b.size || (i < a.size && a.indices[i] <= b.indices[j])) {
            indices[step] = a.indices[i];
            values[step] = a.values[i];
            if (j < b.size && b.indices[j] == a.indices[i]) values[step] = __fadd_rn(values[step], b.values[j]);
            kept |= 1u << step;
            ++i;
        } else {
            indices[step] = b.indices[j];
            values[step] = b.values[j];
            kept |= (u32)(i == 0 || a.indices[i - 1] != b.indices[j]) << step;
            ++j;
        }
    }
    return kept;
}

KERNEL(THREADS)
sparse_merge(const int* a_indices, const float* a_values, i64 a_size, const int* b_indices, const float* b_values,
             i64 b_size, int* indices, float* values, u32* tickets, u64* states, u64* status) {
    __shared__ Ordered shared;
    __shared__ i64 ends[2];
    const Pairs a = {a_indices, a_values, a_size}, b = {b_indices, b_values, b_size};
    const i64 all = a_size + b_size, base = (i64)take_ticket(tickets, shared) * THREADS * ITEMS;
    // First the tile's own ends in all of a, then each thread's start between them.
    if (threadIdx.x < 2) ends[threadIdx.x] = split(a, b, min(base + threadIdx.x * THREADS * ITEMS, all), 0, a_size);
    __syncthreads();
    const i64 diagonal = min(base + threadIdx.x * ITEMS, all), i = split(a, b, diagonal, ends[0], ends[1]);
    int merged[ITEMS];
    float sums[ITEMS];
    const u32 kept = walk(a, b, i, diagonal - i, merged, sums);
    u32 before[1] = {pair(__popc(kept), 0)};
    number<1>(before, states, shared);
    u64 place = first_of(shared.before + widen(before[0]));
#pragma unroll
    for (int step = 0; step < ITEMS; ++step) {
        if (!(kept >> step & 1)) continue;
        indices[place] = merged[step];
        values[place++] = sums[step];
    }
    if (threadIdx.x == 0 && base + THREADS * ITEMS >= all) status[RESULT] = first_of(shared.before + shared.total);
}
