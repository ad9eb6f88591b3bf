// How work is shared: n elements as parts of whole blocks, one part a thread.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "blocks.h"

enum Status : int32_t { OK = 0, NOT_FINITE = 1, BAD_INDEX = 2, BAD_VALUE = 3, BAD_LENGTH = 4, UNUSUAL = 5 };

// Where part `part` of `parts` begins; part `parts` begins at n. A function of n and parts alone.
inline int64_t part_begin(int64_t n, int32_t parts, int32_t part) {
    if (part == parts) return n;
    const int64_t blocks = (n + BLOCK - 1) / BLOCK;
    return blocks * part / parts * BLOCK;
}

// work(part) for each part, on as many threads.
template <typename Work>
void for_parts(int32_t parts, const Work& work) {
    if (parts == 1) {
        work(0);
        return;
    }
#pragma omp parallel for schedule(static, 1) num_threads(parts)
    for (int32_t part = 0; part < parts; ++part) work(part);
}

// The largest of what work(part) gives for each part. It is kept apart until a part is done: counters of two
// threads in one cache line would cost more than all the rest.
template <typename Work>
uint32_t largest_of_parts(int32_t parts, const Work& work) {
    std::vector<uint32_t> largest(parts, 0);
    for_parts(parts, [&](int32_t part) { largest[part] = work(part); });
    return *std::max_element(largest.begin(), largest.end());
}

// work(begin, length) for the blocks of a part.
template <typename Work>
void for_blocks(int64_t begin, int64_t end, const Work& work) {
    for (int64_t i = begin; i < end; i += BLOCK) work(i, end - i < BLOCK ? end - i : BLOCK);
}
