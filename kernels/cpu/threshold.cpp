// Selection of what is above a given magnitude, in one pass.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "magnitude.h"
#include "parts.h"

extern "C" {

// The number of elements above tau, compacted; negative: -NOT_FINITE. indices and values have room for n.
int64_t hpc_add_threshold(int32_t isa, int32_t threads, const float* g, const float* e, float* c, int64_t n,
                          float tau, int32_t* indices, float* values) {
    const Blocks& blocks = blocks_of(isa);
    const uint32_t bar = std::min(key_of(tau), INFINITE) + 1;
    std::vector<Found> parts(threads);
    const uint32_t top = largest_of_parts(threads, [&](int32_t part) {
        const int64_t begin = part_begin(n, threads, part), end = part_begin(n, threads, part + 1);
        Found found{indices + begin, values + begin, 0, end - begin};
        uint32_t largest = 0;
        for_blocks(begin, end, [&](int64_t i, int64_t length) {
            largest = std::max(largest, blocks.select(g + i, e ? e + i : nullptr, c ? c + i : nullptr, length, i,
                                                      bar, bar, &found));
        });
        parts[part] = found;
        return largest;
    });
    int64_t total = 0;
    for (const Found& found : parts) {
        std::memmove(indices + total, found.indices, found.count * sizeof *indices);
        std::memmove(values + total, found.values, found.count * sizeof *values);
        total += found.count;
    }
    return top < INFINITE ? total : -NOT_FINITE;
}

}  // extern "C"
