// Error feedback + all elements above a magnitude, ascending by index: one pass, 12 B an element + 8 B each taken.
#include "common.cuh"

template <bool FAST>
DEVICE bool select_tile(const float* g, const float* e, float* c, i64 n, i64 start, float tau, float (&x)[QUADS][4],
                        u32 (&taken)[QUADS]) {
    bool bad = false;
#pragma unroll
    for (int j = 0; j < QUADS; ++j) load_quad<FAST>(g, start + j * THREADS * 4, n, x[j]);
    if (e) {
        float y[QUADS][4];
#pragma unroll
        for (int j = 0; j < QUADS; ++j) load_quad<FAST>(e, start + j * THREADS * 4, n, y[j]);
#pragma unroll
        for (int j = 0; j < QUADS; ++j)
            for (int q = 0; q < 4; ++q) x[j][q] = __fadd_rn(x[j][q], y[j][q]);
    }
#pragma unroll
    for (int j = 0; j < QUADS; ++j) {
        float kept[4];
        taken[j] = 0;
        for (int q = 0; q < 4; ++q) {
            // Past the end x is 0, which exceeds nothing.
            const bool take = fabsf(x[j][q]) > tau;
            bad |= magnitude(x[j][q]) >= INFINITE;
            taken[j] |= (u32)take << q;
            kept[q] = take ? 0.0f : x[j][q];
        }
        if (c) store_quad<FAST>(c, start + j * THREADS * 4, n, kept);
    }
    return bad;
}

KERNEL(THREADS)
threshold_select(const float* g, const float* e, float* c, i64 n, float tau, int* indices, float* values,
                 u32* tickets, u64* states, u64* status) {
    __shared__ Ordered shared;
    const u32 tile = take_ticket(tickets, shared);
    const i64 base = (i64)tile * TILE, start = base + threadIdx.x * 4;
    const bool fast = base + TILE <= n && aligned(g, 16) && aligned(e, 16) && aligned(c, 16);
    float x[QUADS][4];
    u32 taken[QUADS], before[QUADS];
    const bool bad = fast ? select_tile<true>(g, e, c, n, start, tau, x, taken)
                          : select_tile<false>(g, e, c, n, start, tau, x, taken);
    note_if_any(bad, status);
    for (int j = 0; j < QUADS; ++j) before[j] = pair(__popc(taken[j]), 0);
    number<QUADS>(before, states, shared);
    for (int j = 0; j < QUADS; ++j) {
        u64 place = first_of(shared.before + widen(before[j]));
        for (int q = 0; q < 4; ++q) {
            if (!(taken[j] >> q & 1)) continue;
            indices[place] = (int)(start + j * THREADS * 4 + q);
            values[place++] = x[j][q];
        }
    }
    if (threadIdx.x == 0 && base + TILE >= n) status[RESULT] = first_of(shared.before + shared.total);
}
