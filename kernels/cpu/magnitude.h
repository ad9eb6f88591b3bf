// Floats by their magnitude: the 31 bits below the sign.
#pragma once
#include <cstdint>
#include <cstring>

#include "blocks.h"

inline uint32_t key_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits & MAGNITUDE;
}

inline float magnitude_of(uint32_t key) {
    float x;
    std::memcpy(&x, &key, 4);
    return x;
}
