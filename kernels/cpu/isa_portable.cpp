// Any processor: four lanes, which is SSE2 on x86-64 and NEON on Arm.
#include "blocks.h"

namespace {
constexpr int W = 4;
}
#include "lanes.inl"

namespace {

inline uint32_t at_least(I a, I b) {
    uint32_t mask = 0;
    const I yes = a >= b;
    for (int i = 0; i < W; ++i) mask |= static_cast<uint32_t>(yes[i] & 1) << i;
    return mask;
}

inline uint32_t negative(F x) {
    uint32_t mask = 0;
    const I bits = (I)x;
    for (int i = 0; i < W; ++i) mask |= static_cast<uint32_t>(bits[i] < 0) << i;
    return mask;
}

inline uint64_t squeeze(uint64_t x, int width) {
    uint64_t packed = 0;
    for (int i = 0; i < 8; ++i) packed |= (x >> (8 * i) & 0xff) << (width * i);
    return packed;
}

inline uint64_t spread(uint64_t x, int width) {
    uint64_t bytes = 0;
    for (int i = 0; i < 8; ++i) bytes |= (x >> (width * i) & ((1u << width) - 1)) << (8 * i);
    return bytes;
}

inline I codes_of(const uint64_t* eights, int64_t part) {
    I codes;
    for (int i = 0; i < W; ++i) codes[i] = static_cast<int32_t>(eights[0] >> (8 * (W * part + i)) & 0xff);
    return codes;
}

inline I widened(U x, int first) {
    I wide;
    for (int i = 0; i < W; ++i) wide[i] = static_cast<int32_t>(x[(first + i) / 2] >> 16 * (i % 2) & 0xffff);
    return wide;
}
inline I first_half(U x) { return widened(x, 0); }
inline I second_half(U x) { return widened(x, W); }

}  // namespace
#include "blocks.inl"

const Blocks blocks_portable = table("portable", [] { return true; });
