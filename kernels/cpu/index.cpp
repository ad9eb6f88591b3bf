// Ascending indices as gaps of 7 bits a byte (LEB128), and as a bit mask.
#include <cstring>

#include "kernels.h"
#include "parts.h"

extern "C" {

// Bytes written to `out`, which has room for 5 an index; -1 when the indices do not ascend from 0.
int64_t hpc_encode_gaps(const int32_t* indices, int64_t k, uint8_t* out) {
    const uint8_t* const begin = out;
    int64_t last = -1;
    for (int64_t j = 0; j < k; ++j) {
        if (indices[j] <= last) return -1;
        uint64_t gap = static_cast<uint64_t>(indices[j] - last - 1);
        last = indices[j];
        for (; gap >= 0x80; gap >>= 7) *out++ = static_cast<uint8_t>(gap | 0x80);
        *out++ = static_cast<uint8_t>(gap);
    }
    return out - begin;
}

// 8 * (indices decoded) + status. BAD_VALUE: a gap of more than 5 bytes.
int64_t hpc_decode_gaps(const uint8_t* code, int64_t bytes, int64_t n, int32_t* indices, int64_t k) {
    int64_t last = -1, found = 0;
    for (int64_t i = 0; i < bytes;) {
        uint64_t gap = 0;
        for (int shift = 0;; shift += 7) {
            if (shift > 28) return 8 * found + BAD_VALUE;
            if (i == bytes) return 8 * found + BAD_LENGTH;
            const uint8_t byte = code[i++];
            gap |= static_cast<uint64_t>(byte & 0x7f) << shift;
            if (byte < 0x80) break;
        }
        last += static_cast<int64_t>(gap) + 1;
        if (found == k || last >= n) return 8 * found + BAD_INDEX;
        indices[found++] = static_cast<int32_t>(last);
    }
    return 8 * found + (found == k ? OK : BAD_LENGTH);
}

// Indices that do not fit the mask are BAD_INDEX.
int32_t hpc_encode_mask(const int32_t* indices, int64_t k, uint8_t* mask, int64_t bytes) {
    std::memset(mask, 0, static_cast<size_t>(bytes));
    for (int64_t j = 0; j < k; ++j) {
        if (indices[j] < 0 || indices[j] / 8 >= bytes) return BAD_INDEX;
        mask[indices[j] / 8] |= static_cast<uint8_t>(1 << indices[j] % 8);
    }
    return OK;
}

int32_t hpc_decode_mask(const uint8_t* mask, int64_t n, int32_t* indices, int64_t k) {
    const int64_t bytes = (n + 7) / 8;
    int64_t found = 0;
    for (int64_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        std::memcpy(&word, mask + i, static_cast<size_t>(bytes - i < 8 ? bytes - i : 8));
        for (; word; word &= word - 1, ++found) {
            const int64_t index = 8 * i + __builtin_ctzll(word);
            if (found == k || index >= n) return BAD_INDEX;
            indices[found] = static_cast<int32_t>(index);
        }
    }
    return found == k ? OK : BAD_LENGTH;
}

}  // extern "C"
