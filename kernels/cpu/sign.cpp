// One bit an element and a scale a segment: encode, form what is kept back, decode, majority.
//
// Segments begin anywhere; bytes of bits and blocks do not. A block is walked in pieces that lie in one segment;
// those that begin within a byte are taken one element at a time up to the next byte.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "parts.h"

namespace {

struct Bounds {
    const int64_t* at;
    int64_t segments;

    // Whether they ascend from 0 to n: what is beyond would be beyond the arrays.
    bool cover(int64_t n) const {
        return segments >= 0 && at[0] == 0 && at[segments] == n && std::is_sorted(at, at + segments + 1);
    }

    // The segment that holds element i.
    int64_t of(int64_t i) const { return std::upper_bound(at, at + segments + 1, i) - at - 1; }
};

// work(segment, i, length) for the pieces of begin..end. A piece is of one segment and either begins at a byte,
// or ends before or at the next one.
template <typename Work>
void for_pieces(const Bounds& bounds, int64_t begin, int64_t end, const Work& work) {
    int64_t segment = begin < end ? bounds.of(begin) : 0;
    for (int64_t i = begin; i < end;) {
        while (bounds.at[segment + 1] <= i) ++segment;
        int64_t stop = std::min({end, bounds.at[segment + 1], (i / BLOCK + 1) * BLOCK});
        if (i % 8) stop = std::min(stop, (i + 7) / 8 * 8);
        work(segment, i, stop - i);
        i = stop;
    }
}

// What overflows as a sum of 16 magnitudes in float32.
double large_sum(const float* g, const float* e, float scale, const float* c, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i)
        sum += std::fabs(c ? c[i] : e ? g[i] + (e[i] - std::copysign(scale, e[i])) : g[i]);
    return sum;
}

// The sums of each segment's magnitudes, block by block, so that the result does not depend on the threads.
class Sums {
  public:
    explicit Sums(int64_t n, const Bounds& bounds)
        : bounds_(bounds), sums_((n + BLOCK - 1) / BLOCK + bounds.segments, 0.0) {}

    // Block by block and segment by segment, in the order of the buffer.
    double& of(int64_t segment, int64_t i) { return sums_[i / BLOCK + segment]; }

    void means(float* scales) const {
        for (int64_t s = 0; s < bounds_.segments; ++s) {
            const int64_t begin = bounds_.at[s], end = bounds_.at[s + 1];
            double sum = 0;
            for (int64_t block = begin / BLOCK; block * BLOCK < end; ++block) sum += sums_[block + s];
            scales[s] = end > begin ? static_cast<float>(sum / static_cast<double>(end - begin)) : 0;
        }
    }

  private:
    const Bounds bounds_;
    std::vector<double> sums_;
};

}  // namespace

extern "C" {

int32_t hpc_add_sign(int32_t isa, int32_t threads, const float* g, const float* e, const float* e_scales,
                     float* c, int64_t n, const int64_t* bounds, int64_t segments, uint8_t* bits,
                     float* scales) {
    const Blocks& blocks = blocks_of(isa);
    const Bounds cuts{bounds, segments};
    if (!cuts.cover(n)) return BAD_INDEX;
    Sums sums(n, cuts);
    const uint32_t top = largest_of_parts(threads, [&](int32_t part) {
        uint32_t largest = 0;
        for_pieces(cuts, part_begin(n, threads, part), part_begin(n, threads, part + 1),
                   [&](int64_t segment, int64_t i, int64_t length) {
                       uint8_t byte = 0;
                       uint8_t* const to = i % 8 ? &byte : bits + i / 8;
                       double sum = 0;
                       const float* const kept = e ? e + i : nullptr;
                       const float scale = e ? e_scales[segment] : 0;
                       float* const next = c ? c + i : nullptr;
                       const uint32_t highest = blocks.sign(g + i, kept, scale, next, length, to, &sum);
                       if (std::isinf(sum) && highest < INFINITE)
                           sum = large_sum(g + i, kept, scale, next, length);
                       if (i % 8) bits[i / 8] |= static_cast<uint8_t>(byte << (i % 8));
                       sums.of(segment, i) += sum;
                       largest = std::max(largest, highest);
                   });
        return largest;
    });
    sums.means(scales);
    return top < INFINITE ? OK : NOT_FINITE;
}

int32_t hpc_sign_residual(int32_t isa, int32_t threads, const float* c, int64_t n, const int64_t* bounds,
                       int64_t segments, const float* scales, float* out) {
    const Blocks& blocks = blocks_of(isa);
    const Bounds cuts{bounds, segments};
    if (!cuts.cover(n)) return BAD_INDEX;
    for_parts(threads, [&](int32_t part) {
        for_pieces(cuts, part_begin(n, threads, part), part_begin(n, threads, part + 1),
                   [&](int64_t segment, int64_t i, int64_t length) {
                       blocks.unsign(c + i, scales[segment], out + i, length);
                   });
    });
    return OK;
}

int32_t hpc_add_signs(int32_t isa, int32_t threads, const uint8_t* bits, int64_t n, const int64_t* bounds,
                   int64_t segments, const float* scales, float weight, float* out) {
    const Blocks& blocks = blocks_of(isa);
    const Bounds cuts{bounds, segments};
    if (!cuts.cover(n)) return BAD_INDEX;
    for_parts(threads, [&](int32_t part) {
        for_pieces(cuts, part_begin(n, threads, part), part_begin(n, threads, part + 1),
                   [&](int64_t segment, int64_t i, int64_t length) {
                       const uint8_t shifted = static_cast<uint8_t>(bits[i / 8] >> (i % 8));
                       blocks.add_signs(i % 8 ? &shifted : bits + i / 8, weight * scales[segment], out + i,
                                        length);
                   });
    });
    return OK;
}

// Bit-sliced counters: plane p holds bit p of 64 counts, so that a row is added to all 64 at once.
int32_t hpc_majority(int32_t threads, const uint8_t* rows, int64_t m, int64_t nbytes, uint8_t* out) {
    const int planes = 64 - __builtin_clzll(static_cast<uint64_t>(m));
    const uint64_t half = static_cast<uint64_t>(m) / 2;
    for_parts(threads, [&](int32_t part) {
        for_blocks(part_begin(nbytes, threads, part), part_begin(nbytes, threads, part + 1),
                   [&](int64_t first, int64_t length) {
                       for (int64_t at = first; at < first + length; at += 8) {
                           const size_t width = static_cast<size_t>(std::min<int64_t>(8, nbytes - at));
                           uint64_t plane[64] = {};
                           for (int64_t row = 0; row < m; ++row) {
                               uint64_t carry = 0;
                               std::memcpy(&carry, rows + row * nbytes + at, width);
                               for (int p = 0; carry; ++p) {
                                   const uint64_t both = plane[p] & carry;
                                   plane[p] ^= carry;
                                   carry = both;
                               }
                           }
                           // count > half, from the highest bit down.
                           uint64_t more = 0, same = ~uint64_t{0};
                           for (int p = planes - 1; p >= 0; --p) {
                               const uint64_t bit = half >> p & 1 ? ~uint64_t{0} : 0;
                               more |= same & plane[p] & ~bit;
                               same &= ~(plane[p] ^ bit);
                           }
                           std::memcpy(out + at, &more, width);
                       }
                   });
    });
    return OK;
}

}  // extern "C"
