// Indices as gaps of 7 bits a byte (LEB128), and as a mask of n bits; both ways.
//
//   gaps_encode   4 B read an index, 1 to 5 written
//   gaps_decode   1 B read a byte of code, 4 written an index; then gaps_finish says what was wrong, if anything
//   mask_encode   4 B an index + n / 8, which the caller clears
//   mask_decode   n / 8 + 4 B an index
#include "common.cuh"

DEVICE u32 gap_before(const int* indices, i64 j) { return (u32)((i64)indices[j] - (j ? (i64)indices[j - 1] : -1) - 1); }

DEVICE u32 bytes_of(u32 gap) { return gap ? (38 - __clz(gap)) / 7 : 1; }

KERNEL(THREADS)
gaps_encode(const int* indices, i64 k, u8* out, u32* tickets, u64* states, u64* status) {
    __shared__ Ordered shared;
    const i64 base = (i64)take_ticket(tickets, shared) * THREADS * QUADS;
    u32 gaps[QUADS], before[QUADS];
#pragma unroll
    for (int r = 0; r < QUADS; ++r) {
        const i64 j = base + r * THREADS + threadIdx.x;
        gaps[r] = j < k ? gap_before(indices, j) : 0;
        before[r] = j < k ? pair(bytes_of(gaps[r]), 0) : 0;
    }
    number<QUADS>(before, states, shared);
#pragma unroll
    for (int r = 0; r < QUADS; ++r) {
        if (base + r * THREADS + threadIdx.x >= k) continue;
        u8* p = out + first_of(shared.before + widen(before[r]));
        u32 rest = gaps[r];
        for (; rest >= 0x80; rest >>= 7) *p++ = (u8)((rest & 0x7F) | 0x80);
        *p = (u8)rest;
    }
    if (threadIdx.x == 0 && base + THREADS * QUADS >= k) status[RESULT] = first_of(shared.before + shared.total);
}

struct Gaps {    // zero at the start of a call
    u64 mistake;  // of the first one: ~(position * 2 + 1 where the gap is too long); 0 if none
    u64 found;
    u32 tickets;
};
static_assert(sizeof(Gaps) == 24, "hpc_fl/backends/cuda.py takes room for it");

// The gap whose last byte is at p: at most 4 bytes with bit 7 set lie before it.
DEVICE u64 gap_ending_at(const u8* code, i64 p) {
    u64 gap = code[p];
    for (int d = 1; d <= 4 && p >= d && code[p - d] & 0x80; ++d) gap = gap << 7 | (code[p - d] & 0x7F);
    return gap;
}

DEVICE bool too_long_at(const u8* code, i64 p) {
    for (int d = 0; d <= 4; ++d)
        if (p < d || !(code[p - d] & 0x80)) return false;
    return true;
}

// The sum of what the threads before hold; ``total``: of all.
DEVICE u64 block_scan(u64 own, u64* sums, u64& total) {
    const u64 all = warp_scan(own);
    if (lane() == 31) sums[warp()] = all;
    __syncthreads();
    u64 before = all - own;
    total = 0;
    for (int w = 0; w < WARPS; ++w) {
        if (w < warp()) before += sums[w];
        total += sums[w];
    }
    __syncthreads();
    return before;
}

// A thread takes 4 bytes. Ends of gaps are counted, and gap + 1 summed: place and index of each.
KERNEL(THREADS)
gaps_decode(const u8* code, i64 size, i64 n, i64 k, int* indices, Gaps* gaps, u64* counts, u64* sums) {
    __shared__ Ordered shared;
    __shared__ u64 partial[WARPS];
    __shared__ u64 bases[2];
    const u32 tile = take_ticket(&gaps->tickets, shared);
    const i64 base = (i64)tile * THREADS * 4, start = base + threadIdx.x * 4;
    u64 steps[4], ends = 0, sum = 0, all_ends, all_sum;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
        const i64 p = start + q;
        steps[q] = 0;
        if (p >= size) continue;
        if (code[p] < 0x80)  // clamped: any index past n is an error, and sums stay small
            steps[q] = min(gap_ending_at(code, p) + 1, 1ull << 31);
        else if (too_long_at(code, p))
            atomicMax(&gaps->mistake, ~((u64)p * 2 + 1));
        ends += steps[q] != 0;
        sum += steps[q];
    }
    u64 place = block_scan(ends, partial, all_ends), index = block_scan(sum, partial, all_sum);
    if (warp() == 0) {
        const u64 ends_before = look_back(counts, tile, all_ends), sum_before = look_back(sums, tile, all_sum);
        if (lane() == 0) bases[0] = ends_before, bases[1] = sum_before;
    }
    __syncthreads();
    place += bases[0], index += bases[1];
#pragma unroll
    for (int q = 0; q < 4; ++q) {
        if (!steps[q]) continue;
        index += steps[q];
        if (place >= (u64)k || index > (u64)n)
            atomicMax(&gaps->mistake, ~((u64)(start + q) * 2));
        else
            indices[place] = (int)(index - 1);
        ++place;
    }
    if (threadIdx.x == 0 && base + THREADS * 4 >= size) gaps->found = bases[0] + all_ends;
}

KERNEL(32)
gaps_finish(const u8* code, i64 size, i64 n, i64 k, const Gaps* gaps, u64* status) {
    if (threadIdx.x) return;
    if (gaps->mistake)
        note(status, ~gaps->mistake & 1 ? GAPS_LONG : GAPS_MANY, (u64)k, (u64)n);
    else if (gaps->found != (u64)k || (size && code[size - 1] & 0x80))
        note(status, GAPS_END, gaps->found, (u64)k);
}

// The first index of each byte writes it for the up to 7 after it: no two threads share one.
KERNEL(THREADS)
mask_encode(const int* indices, i64 k, u8* mask, i64 nbytes) {
    const i64 j = (i64)blockIdx.x * THREADS + threadIdx.x;
    if (j >= k) return;
    const int byte = indices[j] >> 3;
    if (byte < 0 || byte >= nbytes || (j && indices[j - 1] >> 3 == byte)) return;
    u32 bits = 0;
    for (i64 i = j; i < k && i < j + 8 && indices[i] >> 3 == byte; ++i) bits |= 1u << (indices[i] & 7);
    mask[byte] = (u8)bits;
}

KERNEL(THREADS)
mask_decode(const u8* mask, i64 nbytes, i64 n, i64 k, int* indices, u32* tickets, u64* states, u64* status) {
    __shared__ Ordered shared;
    const i64 base = (i64)take_ticket(tickets, shared) * THREADS * QUADS * 4;
    u32 words[QUADS], before[QUADS];
#pragma unroll
    for (int r = 0; r < QUADS; ++r) {
        const i64 byte = base + (r * THREADS + threadIdx.x) * 4;
        words[r] = byte < nbytes ? load_word(mask + byte, nbytes - byte) : 0;
        before[r] = pair(__popc(words[r]), 0);
    }
    number<QUADS>(before, states, shared);
#pragma unroll
    for (int r = 0; r < QUADS; ++r) {
        const i64 first = (base + (r * THREADS + threadIdx.x) * 4) * 8;
        u64 place = first_of(shared.before + widen(before[r]));
        for (u32 word = words[r]; word && place < (u64)k; word &= word - 1)
            indices[place++] = (int)(first + __ffs(word) - 1);
    }
    if (threadIdx.x || base + THREADS * QUADS * 4 < nbytes) return;
    const u64 found = first_of(shared.before + shared.total);
    const bool past = n % 8 && mask[nbytes - 1] >> n % 8;
    if (found != (u64)k || past) note(status, MASK_BITS, found, (u64)k | (u64)n << 32);
}
