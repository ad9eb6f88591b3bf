// What differs between instruction sets: work on one block of consecutive elements, on one thread.
//
// Each set compiles the same source, blocks.inl, and offers it as a table of functions. A block has at most
// BLOCK elements: calling through the table costs nothing beside its work, and its data stays in the first
// cache between two steps on it.
#pragma once
#include <stdint.h>

constexpr int64_t BLOCK = 4096;
constexpr uint32_t MAGNITUDE = 0x7fffffff;  // the bits of a float below its sign order it by magnitude
constexpr uint32_t INFINITE = 0x7f800000;   // magnitudes from here on are infinite or NaN

// Elements found so far, ascending by index.
struct Found {
    int32_t* indices;
    float* values;
    int64_t count;
    int64_t room;
};

struct Blocks {
    const char* name;
    bool (*supported)();

    // c = g + e (e may be null: zeros). c may be null (nothing is written) or g.
    // Appends to `found`, while there is room, the elements of c whose magnitude is at least `lower`; those of
    // at least `upper` are set to 0 in c at once. Returns the largest magnitude.
    uint32_t (*select)(const float* g, const float* e, float* c, int64_t n, int64_t first, uint32_t lower,
                       uint32_t upper, Found* found);

    // How many magnitudes of g + e are above `bar`, and how many equal it.
    void (*count)(const float* g, const float* e, int64_t n, uint32_t bar, int64_t* above, int64_t* equal);

    // c = g + (e - copysign(scale, e)), its sign bits, the sum of its magnitudes; returns the largest of these.
    // e may be null (zeros, whatever the scale); c may be null or g. Whole bytes of bits are written.
    uint32_t (*sign)(const float* g, const float* e, float scale, float* c, int64_t n, uint8_t* bits,
                     double* sum);

    // out = c - copysign(scale, c); out may be c.
    void (*unsign)(const float* c, float scale, float* out, int64_t n);

    // out += step where the bit is clear, -step where it is set.
    void (*add_signs)(const uint8_t* bits, float step, float* out, int64_t n);

    // total = g + e; returns the largest magnitude. e may be null, total may be g.
    uint32_t (*add)(const float* g, const float* e, float* total, int64_t n);

    // Stochastic rounding of one block of a common scale: codes of `width` bits for elements first.. of the
    // buffer; c, unless null, receives what is lost. total may be c. What will be read next is asked for
    // meanwhile: this step computes, the one before it waits for memory.
    void (*quantize)(const float* total, float* c, int64_t n, int64_t first, int width, float scale,
                     uint64_t key, uint8_t* codes, const float* next_g, const float* next_e);

    // out += weight * the codes' values.
    void (*dequantize)(const uint8_t* codes, int width, float scale, float weight, float* out, int64_t n);
};

extern const Blocks blocks_portable, blocks_avx2, blocks_avx512;

// The table of an instruction set by its number: 0 portable, 1 AVX2, 2 AVX-512. The caller has asked
// hpc_isa_supported.
const Blocks& blocks_of(int32_t isa);
