// A few bits an element, stochastically rounded, with a scale for each group of elements.
#include <algorithm>

#include "kernels.h"
#include "magnitude.h"
#include "parts.h"

namespace {

// Parts that begin where a group of `size` elements does.
int64_t group_begin(int64_t n, int64_t size, int32_t threads, int32_t part) {
    const int64_t groups = (n + size - 1) / size;
    return std::min(n, groups * part / threads * size);
}

// The largest magnitude of one group, with g + e in c, or where there is no c in `total` (BLOCK elements).
struct Corrected {
    const Blocks& blocks;
    const float* g;
    const float* e;
    float* c;

    uint32_t add(int64_t begin, int64_t end, float* total) const {
        uint32_t top = 0;
        for_blocks(begin, end, [&](int64_t i, int64_t length) {
            top = std::max(top, blocks.add(g + i, e ? e + i : nullptr, c ? c + i : total, length));
        });
        return top;
    }
};

}  // namespace

extern "C" {

int32_t hpc_add_quantize(int32_t isa, int32_t threads, const float* g, const float* e, float* c, int64_t n,
                         int32_t width, int64_t size, uint64_t key, uint8_t* codes, float* scales) {
    const Blocks& blocks = blocks_of(isa);
    const Corrected corrected{blocks, g, e, c};
    const uint32_t top = largest_of_parts(threads, [&](int32_t part) {
        float total[BLOCK];
        uint32_t largest = 0;
        const int64_t stop = group_begin(n, size, threads, part + 1);
        for (int64_t begin = group_begin(n, size, threads, part); begin < stop; begin += size) {
            const int64_t end = std::min(begin + size, n);
            const uint32_t highest = corrected.add(begin, end, total);
            largest = std::max(largest, highest);
            if (largest >= INFINITE) break;
            scales[begin / size] = magnitude_of(highest);
            for_blocks(begin, end, [&](int64_t i, int64_t length) {
                // A group longer than a block was only measured: without c its sums are formed again.
                if (!c && end - begin > BLOCK) blocks.add(g + i, e ? e + i : nullptr, total, length);
                blocks.quantize(c ? c + i : total, c ? c + i : nullptr, length, i, width, magnitude_of(highest), key,
                                codes + i / 8 * width, g + i + length, (e ? e : g) + i + length);
            });
        }
        return largest;
    });
    return top < INFINITE ? OK : NOT_FINITE;
}

int32_t hpc_add_dequantized(int32_t isa, int32_t threads, const uint8_t* codes, const float* scales, int32_t width,
                         int64_t size, float weight, float* out, int64_t n) {
    const Blocks& blocks = blocks_of(isa);
    for_parts(threads, [&](int32_t part) {
        const int64_t stop = group_begin(n, size, threads, part + 1);
        for (int64_t begin = group_begin(n, size, threads, part); begin < stop; begin += size)
            blocks.dequantize(codes + begin / 8 * width, width, scales[begin / size], weight, out + begin,
                              std::min(size, n - begin));
    });
    return OK;
}

}  // extern "C"
