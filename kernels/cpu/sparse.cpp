// Sparse buffers: ascending int32 indices and their float32 values.
#include <cmath>
#include <vector>

#include "kernels.h"
#include "parts.h"

extern "C" {

// out[indices] += weight * values, after all of them were looked at.
int32_t hpc_scatter_add(int32_t threads, const int32_t* indices, const float* values, int64_t k, float weight,
                        float* out, int64_t n) {
    std::vector<uint8_t> astray(threads, 0), odd(threads, 0);
    for_parts(threads, [&](int32_t part) {
        bool order = true, finite = true;
        const int64_t end = part_begin(k, threads, part + 1);
        for (int64_t j = part_begin(k, threads, part); j < end; ++j) {
            order &= indices[j] > (j ? indices[j - 1] : -1) && indices[j] < n;
            finite &= std::isfinite(values[j]);
        }
        astray[part] = !order;
        odd[part] = !finite;
    });
    for (int32_t part = 0; part < threads; ++part)
        if (astray[part]) return BAD_INDEX;
    for (int32_t part = 0; part < threads; ++part)
        if (odd[part]) return BAD_VALUE;
    for_parts(threads, [&](int32_t part) {
        constexpr int64_t ahead = 16;  // their addresses are known long before their turn
        const int64_t end = part_begin(k, threads, part + 1);
        for (int64_t j = part_begin(k, threads, part); j < end; ++j) {
            if (j + ahead < end) __builtin_prefetch(out + indices[j + ahead], 1);
            out[indices[j]] += weight * values[j];
        }
    });
    return OK;
}

// The union of two sparse buffers, a + b where both have an element; returns its size.
int64_t hpc_merge_add(const int32_t* a_indices, const float* a_values, int64_t a, const int32_t* b_indices,
                      const float* b_values, int64_t b, int32_t* indices, float* values) {
    int64_t i = 0, j = 0, k = 0;
    while (i < a && j < b) {
        const int32_t left = a_indices[i], right = b_indices[j];
        const bool first = left <= right, second = right <= left;
        indices[k] = first ? left : right;
        values[k++] = first && second ? a_values[i] + b_values[j] : first ? a_values[i] : b_values[j];
        i += first;
        j += second;
    }
    for (; i < a; ++i, ++k) indices[k] = a_indices[i], values[k] = a_values[i];
    for (; j < b; ++j, ++k) indices[k] = b_indices[j], values[k] = b_values[j];
    return k;
}

}  // extern "C"
