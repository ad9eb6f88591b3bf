// x86-64 with AVX-512 F, BW, DQ and VL.
#include "blocks.h"

#if defined(__x86_64__)

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,lzcnt,popcnt")
#include <immintrin.h>

namespace {
constexpr int W = 16;
}
#include "lanes.inl"

namespace {

inline uint32_t at_least(I a, I b) { return _mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b); }

inline uint32_t negative(F x) { return _mm512_movepi32_mask((__m512i)x); }

inline uint64_t low_bits(int width) { return ((1ull << width) - 1) * 0x0101010101010101ull; }
inline uint64_t squeeze(uint64_t x, int width) { return _pext_u64(x, low_bits(width)); }
inline uint64_t spread(uint64_t x, int width) { return _pdep_u64(x, low_bits(width)); }

// What is masked here need not be; but unmasked, GCC 12 warns of its own header.
inline I codes_of(const uint64_t* eights, int64_t) {
    const __m128i bytes =
        _mm_set_epi64x(static_cast<int64_t>(eights[1]), static_cast<int64_t>(eights[0]));
    return (I)_mm512_maskz_cvtepu8_epi32(0xffff, bytes);
}

inline I widened(__m256i halves) { return (I)_mm512_maskz_cvtepu16_epi32(0xffff, halves); }
inline I first_half(U x) { return widened(_mm512_maskz_extracti64x4_epi64(0xf, (__m512i)x, 0)); }
inline I second_half(U x) { return widened(_mm512_maskz_extracti64x4_epi64(0xf, (__m512i)x, 1)); }

bool supported() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt");
}

}  // namespace
#include "blocks.inl"

const Blocks blocks_avx512 = table("avx512", supported);

#else

const Blocks blocks_avx512 = {"avx512", [] { return false; }};

#endif
