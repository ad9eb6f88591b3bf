// A row and the place beside it where a peer's arrives: what is done before a short message and after it.
//
// For rows of a few kilobytes only, of which a pass takes less than a call from Python: one thread, and the
// instructions that every processor has.
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels.h"

namespace {

// All bits of the exponent are set in NaN and infinity, and in nothing else.
template <typename T, typename Bits, Bits exponent>
int32_t ready(const Pair* pair) {
    const T* const row = static_cast<const T*>(pair->row);
    Bits spoilt = 0;  // as wide as what it is made of: with a bool the loop takes four times as long
    for (int64_t i = 0; i < pair->n; ++i) {
        Bits bits;
        std::memcpy(&bits, row + i, sizeof bits);
        spoilt |= (bits & exponent) == exponent;
    }
    static_cast<T*>(pair->slot)[0] = std::numeric_limits<T>::quiet_NaN();
    return !spoilt;
}

template <typename T>
void mix(const Pair* pair) {
    T* const row = static_cast<T*>(pair->row);
    const T* slot = static_cast<const T*>(pair->slot);
    if (slot[0] != slot[0]) slot = row;
    const T keep = static_cast<T>(pair->keep), take = static_cast<T>(pair->take);
    for (int64_t i = 0; i < pair->n; ++i) row[i] = row[i] * keep + slot[i] * take;
}

}  // namespace

extern "C" {

// 1 where all of the row is finite, else 0; marks the slot as one in which nothing has arrived.
int32_t hpc_pair_ready_f4(const Pair* pair) { return ready<float, uint32_t, 0x7f800000>(pair); }
int32_t hpc_pair_ready_f8(const Pair* pair) { return ready<double, uint64_t, 0x7ff0000000000000>(pair); }

// row = keep * row + take * slot; where nothing has arrived, the row in its stead.
void hpc_pair_mix_f4(const Pair* pair) { mix<float>(pair); }
void hpc_pair_mix_f8(const Pair* pair) { mix<double>(pair); }

}  // extern "C"
