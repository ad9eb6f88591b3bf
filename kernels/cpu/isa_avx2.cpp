// x86-64 with AVX2 and BMI2 (Intel since 2013, AMD since 2015).
#include "blocks.h"

#if defined(__x86_64__)

#pragma GCC target("avx2,bmi,bmi2,lzcnt,popcnt")
#include <immintrin.h>

namespace {
constexpr int W = 8;
}
#include "lanes.inl"

namespace {

inline uint32_t at_least(I a, I b) { return static_cast<uint32_t>(_mm256_movemask_ps((__m256)(a >= b))); }

inline uint32_t negative(F x) { return static_cast<uint32_t>(_mm256_movemask_ps(x)); }

inline uint64_t low_bits(int width) { return ((1ull << width) - 1) * 0x0101010101010101ull; }
inline uint64_t squeeze(uint64_t x, int width) { return _pext_u64(x, low_bits(width)); }
inline uint64_t spread(uint64_t x, int width) { return _pdep_u64(x, low_bits(width)); }

inline I codes_of(const uint64_t* eights, int64_t part) {
    return (I)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(eights[part])));
}

inline I first_half(U x) { return (I)_mm256_cvtepu16_epi32(_mm256_castsi256_si128((__m256i)x)); }
inline I second_half(U x) { return (I)_mm256_cvtepu16_epi32(_mm256_extracti128_si256((__m256i)x, 1)); }

bool supported() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("popcnt");
}

}  // namespace
#include "blocks.inl"

const Blocks blocks_avx2 = table("avx2", supported);

#else

const Blocks blocks_avx2 = {"avx2", [] { return false; }};

#endif
