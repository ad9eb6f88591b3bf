// Exact selection of the k largest magnitudes, usually in one pass.
//
//   guess   two magnitudes, lower < upper, between which the k-th largest surely lies: around that of the
//           last call (hint), or around a quantile of a sample; and the likeliest, middle
//   pass    c = g + e; collect what is at least `lower`; what is at least `middle` is probably taken: set it to
//           0 while it is in the cache
//   choose  the k-th largest magnitude among those collected; take what is above, and ties by lower index; in c
//           mend the few between that and `middle`
//
// The counts prove the guess right or wrong. A wrong one is undone and followed by the next: hint, then sample.
// What misleads a sample is ties: more elements of one magnitude than there is room for. It then is one of the
// two of the guess, and counting what is above and equal tells which; at last comes a radix selection over
// three histograms, which no data can mislead.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels.h"
#include "magnitude.h"
#include "parts.h"
#include "workspace.h"

namespace {

// What is selected from: g + e as long as nothing was written, then c.
struct Source {
    const float* g;
    const float* e;
    float at(int64_t i) const { return e ? g[i] + e[i] : g[i]; }
    const float* e_from(int64_t i) const { return e ? e + i : nullptr; }
};

struct Guess {
    uint32_t lower, middle, upper;
};

class TopK {
  public:
    TopK(const Blocks& blocks, int32_t threads, Source source, float* c, int64_t n, int64_t k, int32_t* indices,
         float* values)
        : blocks_(blocks), threads_(threads), source_(source), c_(c), n_(n), k_(k), indices_(indices),
          values_(values), found_(threads) {}

    // The smallest magnitude taken in *threshold.
    Status run(uint32_t hint, int32_t* work_indices, float* work_values, int64_t room, uint32_t* threshold) {
        for (int32_t part = 0; part < threads_; ++part)
            found_[part] = {work_indices + part * room, work_values + part * room, 0, room};
        Guess guess = around(hint);
        for (const bool hinted : {true, false}) {
            if (!hinted) guess = sampled();  // only where it is wanted: its jumps through memory take time
            if (guess.upper == 0) continue;
            if (!collect(guess)) return NOT_FINITE;
            if (const int64_t sure = collected_from(guess.upper); sure <= k_ && k_ <= total() && !full_) {
                *threshold = choose(guess, k_ - sure);
                return OK;
            }
            undo(guess);
        }
        if (!take_from(guess.lower) && !take_from(guess.upper - 1)) take_from(kth_magnitude());
        *threshold = smallest();
        return OK;
    }

  private:
    // Magnitudes drift from call to call, those of few elements more.
    Guess around(uint32_t hint) const {
        if (hint == 0 || hint >= INFINITE) return {0, 0, 0};
        const float drift = 0.05f + 1 / std::sqrt(static_cast<float>(k_));
        if (drift >= 1) return {0, 0, 0};
        return {key_of(magnitude_of(hint) * (1 - drift)), hint, key_of(magnitude_of(hint) * (1 + drift)) + 1};
    }

    // Quantiles of a stratified sample, four standard deviations below and above k / n.
    Guess sampled() const {
        if (n_ <= 256) return {0, MAGNITUDE, MAGNITUDE};  // all of them are quickly looked at
        const int64_t size = std::min(n_, std::clamp<int64_t>(n_ / 16, 64, 32768));
        std::vector<uint32_t> keys(size);
        for_parts(threads_, [&](int32_t part) {
            for (int64_t j = size * part / threads_; j < size * (part + 1) / threads_; ++j) {
                const int64_t begin = n_ * j / size, end = n_ * (j + 1) / size;
                const uint64_t random = (j + 1) * 0x9e3779b97f4a7c15u >> 33;
                keys[j] = key_of(source_.at(begin + static_cast<int64_t>(random % (end - begin))));
            }
        });
        const double rank = static_cast<double>(k_) * size / n_;
        const int64_t slack = size == n_ ? 1 : static_cast<int64_t>(4 * std::sqrt(rank)) + 4;
        const int64_t place = static_cast<int64_t>(rank), low = place + slack, high = place - slack;
        const auto quantile = [&](int64_t at) {
            std::nth_element(keys.begin(), keys.begin() + at, keys.end(), std::greater<uint32_t>());
            return keys[at];
        };
        return {low < size ? quantile(low) : 0, quantile(std::min(place, size - 1)),
                high >= 0 ? quantile(high) + 1 : MAGNITUDE};
    }

    // The pass. False when something is not finite.
    bool collect(const Guess& guess) {
        std::atomic<bool> full{false};
        const uint32_t top = largest_of_parts(threads_, [&](int32_t part) {
            Found found = found_[part];
            found.count = 0;
            uint32_t lower = guess.lower, highest = 0;
            for_blocks(part_begin(n_, threads_, part), part_begin(n_, threads_, part + 1),
                       [&](int64_t i, int64_t length) {
                           highest = std::max(
                               highest, blocks_.select(source_.g + i, source_.e_from(i), c_ ? c_ + i : nullptr,
                                                       length, i, lower, guess.middle, &found));
                           if (found.count < found.room || lower == MAGNITUDE) return;
                           full = true;
                           lower = MAGNITUDE;  // the rest is only written
                       });
            found_[part] = found;
            return highest;
        });
        full_ = full && n_ > 0;
        if (c_) source_ = {c_, nullptr};
        return top < INFINITE;
    }

    int64_t total() const {
        int64_t count = 0;
        for (const Found& found : found_) count += found.count;
        return count;
    }

    // How many of those collected have at least this magnitude.
    int64_t collected_from(uint32_t bar) const {
        int64_t count = 0;
        for (const Found& found : found_)
            for (int64_t j = 0; j < found.count; ++j) count += key_of(found.values[j]) >= bar;
        return count;
    }

    void undo(const Guess& guess) {
        if (!c_) return;
        for (const Found& found : found_)
            for (int64_t j = 0; j < found.count; ++j)
                if (key_of(found.values[j]) >= guess.middle) c_[found.indices[j]] = found.values[j];
    }

    // The k largest of those collected, in their order: all from guess.upper on, and so many `wanted` below.
    uint32_t choose(const Guess& guess, int64_t wanted) {
        const uint32_t bar = wanted > 0 ? kth_in(band_below(guess.upper), wanted, guess) : guess.upper - 1;
        std::vector<int64_t> above(threads_, 0), equal(threads_, 0);
        for_parts(threads_, [&](int32_t part) {
            const Found& found = found_[part];
            int64_t more = 0, same = 0;
            for (int64_t j = 0; j < found.count; ++j) {
                more += key_of(found.values[j]) > bar;
                same += key_of(found.values[j]) == bar;
            }
            above[part] = more;
            equal[part] = same;
        });
        emit(bar, above, equal, [&](int32_t part, const int64_t*, const auto& take) {
            const Found& found = found_[part];
            for (int64_t j = 0; j < found.count; ++j)
                take(found.indices[j], found.values[j], key_of(found.values[j]) >= guess.middle);
        });
        return wanted > 0 ? bar : smallest();
    }

    // The magnitudes collected that are not surely taken.
    std::vector<uint32_t> band_below(uint32_t upper) const {
        std::vector<std::vector<uint32_t>> bands(threads_);
        for_parts(threads_, [&](int32_t part) {
            const Found& found = found_[part];
            std::vector<uint32_t>& band = bands[part];
            band.resize(found.count + 1);
            int64_t count = 0;
            for (int64_t j = 0; j < found.count; ++j) {
                band[count] = key_of(found.values[j]);
                count += band[count] < upper;  // no branch: which they are cannot be foretold
            }
            band.resize(count);
        });
        for (int32_t part = 1; part < threads_; ++part)
            bands[0].insert(bands[0].end(), bands[part].begin(), bands[part].end());
        return std::move(bands[0]);
    }

    // The k-th largest of `band`, all of which lie in the guess: first by a histogram of its width.
    static uint32_t kth_in(std::vector<uint32_t> band, int64_t k, const Guess& guess) {
        constexpr int BITS = 11;
        const int width = 32 - __builtin_clz(guess.upper - guess.lower), shift = std::max(0, width - BITS);
        if (band.size() > (size_t{1} << BITS)) {
            std::vector<int64_t> counts(size_t{1} << BITS, 0);
            for (const uint32_t key : band) ++counts[(key - guess.lower) >> shift];
            uint32_t bin = (1u << BITS) - 1;
            for (; k > counts[bin]; --bin) k -= counts[bin];
            size_t kept = 0;
            for (const uint32_t key : band) {
                band[kept] = key;
                kept += (key - guess.lower) >> shift == bin;
            }
            band.resize(kept);
        }
        std::nth_element(band.begin(), band.begin() + (k - 1), band.end(), std::greater<uint32_t>());
        return band[k - 1];
    }

    // Takes what is above `bar` and the first of its ties, if these are the k largest.
    bool take_from(uint32_t bar) {
        std::vector<int64_t> above(threads_, 0), equal(threads_, 0);
        for_parts(threads_, [&](int32_t part) {
            int64_t more = 0, same = 0;
            for_blocks(part_begin(n_, threads_, part), part_begin(n_, threads_, part + 1),
                       [&](int64_t i, int64_t length) {
                           blocks_.count(source_.g + i, source_.e_from(i), length, bar, &more, &same);
                       });
            above[part] = more;
            equal[part] = same;
        });
        const int64_t more = std::accumulate(above.begin(), above.end(), int64_t{0});
        if (more > k_ || more + std::accumulate(equal.begin(), equal.end(), int64_t{0}) < k_) return false;
        emit(bar, above, equal, [&](int32_t part, const int64_t* ties, const auto& take) { sweep(part, bar, ties, take); });
        return true;
    }

    // The k-th largest magnitude, by 11, 10 and 10 bits.
    uint32_t kth_magnitude() const {
        uint32_t prefix = 0;
        int64_t wanted = k_;
        for (const Digit& digit : {Digit{20, 11}, Digit{10, 10}, Digit{0, 10}})
            prefix = (prefix << digit.bits) + descend(digit, prefix, &wanted);
        return prefix;
    }

    struct Digit {
        int shift, bits;
    };

    // The digit of the wanted-th largest of those that begin with `prefix`; *wanted becomes its rank below.
    uint32_t descend(const Digit& digit, uint32_t prefix, int64_t* wanted) const {
        const int64_t bins = int64_t{1} << digit.bits;
        std::vector<std::vector<uint32_t>> counts(threads_);
        for_parts(threads_, [&](int32_t part) {
            counts[part].assign(4 * bins, 0);
            uint32_t* const count = counts[part].data();
            const int64_t end = part_begin(n_, threads_, part + 1);
            for (int64_t i = part_begin(n_, threads_, part); i < end; ++i) {
                const uint32_t key = key_of(source_.at(i)) >> digit.shift;
                // Four histograms: equal neighbours do not wait for each other.
                if (key >> digit.bits == prefix) ++count[(i & 3) * bins + (key & (bins - 1))];
            }
        });
        for (int64_t bin = bins - 1;; --bin) {
            int64_t here = 0;
            for (const auto& count : counts)
                for (int j = 0; j < 4; ++j) here += count[j * bins + bin];
            if (*wanted <= here || bin == 0) return static_cast<uint32_t>(bin);
            *wanted -= here;
        }
    }

    // take() for the elements of a part of at least `bar`, and above it when no more ties are wanted.
    template <typename Take>
    void sweep(int32_t part, uint32_t bar, const int64_t* ties, const Take& take) const {
        int32_t at[BLOCK];
        float value[BLOCK];
        for_blocks(part_begin(n_, threads_, part), part_begin(n_, threads_, part + 1),
                   [&](int64_t i, int64_t length) {
                       Found found{at, value, 0, BLOCK};
                       blocks_.select(source_.g + i, source_.e_from(i), nullptr, length, i, bar + (*ties <= 0),
                                      INFINITE, &found);
                       for (int64_t j = 0; j < found.count; ++j) take(at[j], value[j], false);
                   });
    }

    // Writes what is above the bar and the first of its ties, each part at its own place; c has then 0 for
    // these, and for no others.
    template <typename Each>
    void emit(uint32_t bar, const std::vector<int64_t>& above, const std::vector<int64_t>& equal,
              const Each& each) {
        std::vector<int64_t> place(threads_), ties(threads_);
        int64_t left = k_, next = 0;
        for (const int64_t count : above) left -= count;
        for (int32_t part = 0; part < threads_; ++part) {
            ties[part] = std::min(left, equal[part]);
            left -= ties[part];
            place[part] = next;
            next += above[part] + ties[part];
        }
        for_parts(threads_, [&](int32_t part) {
            int64_t to = place[part], ties_left = ties[part];
            const int64_t end = to + above[part] + ties_left;
            each(part, &ties_left, [&](int32_t index, float value, bool cleared) {
                const uint32_t key = key_of(value);
                const bool taken = key > bar || (key == bar && ties_left-- > 0);
                if (to < end) {
                    // No branch on what cannot be foretold: what is not taken is written over by the next.
                    indices_[to] = index;
                    values_[to] = value;
                    to += taken;
                }
                if (c_ && taken != cleared) c_[index] = taken ? 0 : value;
            });
        });
    }

    // Of the magnitudes taken: the bar itself may be a bound that nothing equals.
    uint32_t smallest() const {
        uint32_t least = INFINITE;
        for (int64_t j = 0; j < k_; ++j) least = std::min(least, key_of(values_[j]));
        return least;
    }

    const Blocks& blocks_;
    const int32_t threads_;
    Source source_;
    float* const c_;
    const int64_t n_, k_;
    int32_t* const indices_;
    float* const values_;
    std::vector<Found> found_;
    bool full_ = false;
};

}  // namespace

extern "C" {

// The magnitude bits of the smallest one taken; negative: -NOT_FINITE.
int64_t hpc_add_topk(int32_t isa, int32_t threads, const float* g, const float* e, float* c, int64_t n,
                     int64_t k, float hint, int32_t* indices, float* values) {
    if (n == 0) return INFINITE;
    // What a good guess can collect in one part.
    const int64_t part = ((n + BLOCK - 1) / BLOCK / threads + 1) * BLOCK;
    const int64_t room = std::min(part, 2 * k + 65536) + 1;
    thread_local Workspace workspace;
    char* const work = workspace.of(threads * room * (sizeof *indices + sizeof *values));
    TopK topk(blocks_of(isa), threads, {g, e}, c, n, k, indices, values);
    uint32_t key = INFINITE;
    const Status status = topk.run(key_of(hint), reinterpret_cast<int32_t*>(work),
                                   reinterpret_cast<float*>(work) + threads * room, room, &key);
    return status == OK ? static_cast<int64_t>(key) : -status;
}

}  // extern "C"
