// A row and the slots beside it where its neighbours' rows arrive: what is done before short messages and after.
//
// For rows of a few kilobytes only, of which a pass takes less than a call from Python: one thread, and the
// instructions that every processor has.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels.h"

namespace {

constexpr int64_t PIECE = 512;  // elements that are added up in the first cache

// All bits of the exponent are set in NaN and infinity, and in nothing else.
template <typename T, typename Bits, Bits exponent>
int32_t ready(const ShortRow* of) {
    const T* const row = static_cast<const T*>(of->row);
    Bits spoilt = 0;  // as wide as what it is made of: with a bool the loop takes four times as long
    for (int64_t i = 0; i < of->n; ++i) {
        Bits bits;
        std::memcpy(&bits, row + i, sizeof bits);
        spoilt |= (bits & exponent) == exponent;
    }
    for (int64_t j = 0; j < of->sources; ++j)
        static_cast<T*>(of->slots)[j * of->n] = std::numeric_limits<T>::quiet_NaN();
    return !spoilt;
}

template <typename T>
void mix(const ShortRow* of) {
    T* const row = static_cast<T*>(of->row);
    const T* const slots = static_cast<const T*>(of->slots);
    const T keep = static_cast<T>(of->keep);
    for (int64_t begin = 0; begin < of->n; begin += PIECE) {
        const int64_t length = std::min(PIECE, of->n - begin);
        T sum[PIECE];
        for (int64_t i = 0; i < length; ++i) sum[i] = row[begin + i] * keep;
        for (int64_t j = 0; j < of->sources; ++j) {
            const T* const slot = slots + j * of->n;
            const T* const from = (slot[0] != slot[0] ? row : slot) + begin;
            const T take = static_cast<T>(of->takes[j]);
            for (int64_t i = 0; i < length; ++i) sum[i] += from[i] * take;
        }
        std::memcpy(row + begin, sum, length * sizeof *row);
    }
}

}  // namespace

extern "C" {

// 1 where all of the row is finite, else 0; marks the slots as ones in which nothing has arrived.
int32_t hpc_short_row_ready_f4(const ShortRow* of) { return ready<float, uint32_t, 0x7f800000>(of); }
int32_t hpc_short_row_ready_f8(const ShortRow* of) { return ready<double, uint64_t, 0x7ff0000000000000>(of); }

// row = keep * row + the sum of take * slot; where nothing has arrived, the row in the slot's stead.
void hpc_short_row_mix_f4(const ShortRow* of) { mix<float>(of); }
void hpc_short_row_mix_f8(const ShortRow* of) { mix<double>(of); }

}  // extern "C"
