// The blocks of blocks.h in GCC's vector extensions. To be included by isa_*.cpp after lanes.inl, and after, in
// an anonymous namespace, the functions that the extensions lack:
//   uint32_t at_least(I a, I b)   bit i: a[i] >= b[i] as signed integers
//   uint32_t negative(F x)        bit i: the sign bit of x[i]
//   uint64_t squeeze(uint64_t x, int width)   the lowest `width` bits of each byte, side by side
//   uint64_t spread(uint64_t x, int width)    its inverse
//   I codes_of(const uint64_t* eights, int64_t part)   vector number `part` of the bytes, widened
// No header with inline functions may be included there: the linker could keep the copy that was compiled for
// the larger instruction set, and run it on a machine that lacks it.

namespace {

constexpr int64_t AHEAD = 1024;  // elements to ask for before they are needed: of top-k 6 % beside 512, elsewhere 0

inline F load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, F x) { *reinterpret_cast<Unaligned*>(p) = x; }
inline I bits_of(F x) { return (I)x; }
inline F float_of(I x) { return (F)x; }
inline I magnitude(F x) { return bits_of(x) & static_cast<int32_t>(MAGNITUDE); }
inline I larger(I a, I b) { return a > b ? a : b; }
// The sign of `size` turned in the lanes whose bit is set.
inline F flipped(F size, uint32_t bits) {
    I lane;
    for (int j = 0; j < W; ++j) lane[j] = 1 << j;
    const I set = (static_cast<int32_t>(bits) & lane) != 0;
    return float_of(bits_of(size) ^ (set & INT32_MIN));
}

inline F with_sign(F size, F sign) { return float_of(bits_of(size) | (bits_of(sign) & INT32_MIN)); }

inline uint32_t largest(I x) {
    int32_t top = 0;
    for (int i = 0; i < W; ++i) top = x[i] > top ? x[i] : top;
    return static_cast<uint32_t>(top);
}

inline uint32_t key_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits & MAGNITUDE;
}

inline bool is_negative(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits >> 31;
}

inline void ask_for(const float* p) { __builtin_prefetch(p + AHEAD); }

// False when there is no room.
inline bool append(Found* found, int64_t index, float value) {
    if (found->count == found->room) return false;
    found->indices[found->count] = static_cast<int32_t>(index);
    found->values[found->count++] = value;
    return true;
}

template <bool has_e, bool has_c>
uint32_t select_in(const float* g, const float* e, float* c, int64_t n, int64_t first, uint32_t lower,
                   uint32_t upper, Found* found) {
    constexpr int64_t SPAN = 64;
    const I bar = I{} + static_cast<int32_t>(lower);
    I top{};
    uint32_t rest_top = 0;
    int64_t i = 0;
    // No branch on whether it is cleared, which cannot be foretold.
    const auto emit = [&](int64_t at, float value) {
        if (!append(found, first + at, value)) return;
        if (has_c) c[at] = key_of(value) >= upper ? 0 : value;
    };
    for (; i + SPAN <= n; i += SPAN) {
        uint64_t hits = 0;
        for (int j = 0; j < SPAN; j += W) {
            ask_for(g + i + j);
            if (has_e) ask_for(e + i + j);
            const F x = has_e ? load(g + i + j) + load(e + i + j) : load(g + i + j);
            if (has_c) store(c + i + j, x);
            const I size = magnitude(x);
            top = larger(top, size);
            hits |= static_cast<uint64_t>(at_least(size, bar)) << j;
        }
        for (; hits; hits &= hits - 1) {
            const int j = __builtin_ctzll(hits);
            emit(i + j, has_c ? c[i + j] : has_e ? g[i + j] + e[i + j] : g[i + j]);
        }
    }
    for (; i < n; ++i) {
        const float x = has_e ? g[i] + e[i] : g[i];
        if (has_c) c[i] = x;
        const uint32_t size = key_of(x);
        rest_top = size > rest_top ? size : rest_top;
        if (size >= lower) emit(i, x);
    }
    return largest(top) > rest_top ? largest(top) : rest_top;
}

uint32_t select(const float* g, const float* e, float* c, int64_t n, int64_t first, uint32_t lower,
                uint32_t upper, Found* found) {
    const auto run = e ? (c ? select_in<true, true> : select_in<true, false>)
                       : (c ? select_in<false, true> : select_in<false, false>);
    return run(g, e, c, n, first, lower, upper, found);
}

void count(const float* g, const float* e, int64_t n, uint32_t bar, int64_t* above, int64_t* equal) {
    const I limit = I{} + static_cast<int32_t>(bar);
    I more{}, same{};  // a block is too short for these to overflow
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        ask_for(g + i);
        const I size = magnitude(e ? load(g + i) + load(e + i) : load(g + i));
        more -= size > limit;
        same -= size == limit;
    }
    for (int j = 0; j < W; ++j) *above += more[j], *equal += same[j];
    for (; i < n; ++i) {
        const uint32_t size = key_of(e ? g[i] + e[i] : g[i]);
        *above += size > bar;
        *equal += size == bar;
    }
}

template <bool has_e, bool has_c>
uint32_t sign_in(const float* g, const float* e, float scale, float* c, int64_t n, uint8_t* bits, double* sum) {
    // Sums of 16 elements in float32, then float64: within 1e-6 whatever the data.
    constexpr int64_t FOUR = 4 * W, SPAN = 16 * FOUR;
    const F size = F{} + scale;
    I top{};
    int64_t i = 0;
    while (n - i >= FOUR) {
        const int64_t stop = n - i >= SPAN ? i + SPAN : i + (n - i) / FOUR * FOUR;
        F part[4] = {};
        for (; i < stop; i += FOUR) {
            uint64_t word = 0;
            for (int k = 0; k < 4; ++k) {
                const int64_t at = i + k * W;
                ask_for(g + at);
                F x = load(g + at);
                if (has_e) {
                    ask_for(e + at);
                    const F kept = load(e + at);
                    x = x + (kept - with_sign(size, kept));
                }
                if (has_c) store(c + at, x);
                top = larger(top, magnitude(x));
                part[k] += float_of(magnitude(x));
                word |= static_cast<uint64_t>(negative(x)) << (k * W);
            }
            __builtin_memcpy(bits + i / 8, &word, FOUR / 8);
        }
        const F total = (part[0] + part[1]) + (part[2] + part[3]);
        for (int k = 0; k < W; ++k) *sum += total[k];
    }
    uint32_t rest_top = largest(top);
    for (uint8_t byte = 0; i < n; ++i) {
        float x = g[i];
        if (has_e) x = x + (e[i] - __builtin_copysignf(scale, e[i]));
        if (has_c) c[i] = x;
        *sum += __builtin_fabsf(x);
        rest_top = key_of(x) > rest_top ? key_of(x) : rest_top;
        byte |= static_cast<uint8_t>(is_negative(x)) << (i % 8);
        if (i % 8 == 7 || i + 1 == n) {
            bits[i / 8] = byte;
            byte = 0;
        }
    }
    return rest_top;
}

uint32_t sign(const float* g, const float* e, float scale, float* c, int64_t n, uint8_t* bits, double* sum) {
    const auto run = e ? (c ? sign_in<true, true> : sign_in<true, false>)
                       : (c ? sign_in<false, true> : sign_in<false, false>);
    return run(g, e, scale, c, n, bits, sum);
}

void unsign(const float* c, float scale, float* out, int64_t n) {
    const F size = F{} + scale;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        const F x = load(c + i);
        store(out + i, x - with_sign(size, x));
    }
    for (; i < n; ++i) out[i] = c[i] - __builtin_copysignf(scale, c[i]);
}

void add_signs(const uint8_t* bits, float step, float* out, int64_t n) {
    const F size = F{} + step;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        uint32_t word;
        __builtin_memcpy(&word, bits + i / 8, 4);
        ask_for(out + i);
        ask_for(out + i + 16);
        for (int j = 0; j < 32; j += W) store(out + i + j, load(out + i + j) + flipped(size, word >> j));
    }
    for (; i < n; ++i) out[i] += bits[i / 8] >> (i % 8) & 1 ? -step : step;
}

uint32_t add(const float* g, const float* e, float* total, int64_t n) {
    I top{};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        const F x = e ? load(g + i) + load(e + i) : load(g + i);
        store(total + i, x);
        top = larger(top, magnitude(x));
    }
    uint32_t highest = largest(top);
    for (; i < n; ++i) {
        total[i] = e ? g[i] + e[i] : g[i];
        highest = key_of(total[i]) > highest ? key_of(total[i]) : highest;
    }
    return highest;
}

// What hpc_fl.backends.uniform, whose docstring has the formula, draws for the pairs j.
inline U drawn(U j, uint32_t k0, uint32_t k1) {
    U x = j + k0;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x += k1;
    x *= 0x846ca68bu;
    return x ^ x >> 16;
}

// Elements that are decoded together: whole vectors, and whole words of eight codes.
constexpr int64_t GROUP = W < 8 ? 8 : W;
constexpr int64_t WORDS = GROUP / 8;
// Elements that are encoded together: they share a vector of random numbers.
constexpr int64_t PAIRS = 2 * W;
constexpr int64_t LINE = 16;  // of the cache, in elements

struct Quantizer {
    F inverse, levels, unit;
    int width;
    uint32_t k0, k1;

    // The codes of PAIRS elements, one a byte, and what is lost of them (nothing is written to null).
    void pairs(const float* x, float* lost, uint32_t first, uint8_t* codes) const {
        U lane;
        for (int j = 0; j < W; ++j) lane[j] = static_cast<uint32_t>(j);
        const U both = drawn(lane + first, k0, k1);
        vector(x, lost, first_half(both), codes);
        vector(x + W, lost ? lost + W : nullptr, second_half(both), codes + W);
    }

    void vector(const float* x, float* lost, I half, uint8_t* codes) const {
        constexpr uint32_t SIGN = 0x80000000u;
        const F v = load(x);
        const F size = float_of(magnitude(v)) * inverse + (__builtin_convertvector(half, F) * 0x1p-16f + 0x1p-17f);
        const I q = __builtin_convertvector(size < levels ? size : levels, I);  // towards zero: down
        if (lost) store(lost, v - with_sign(__builtin_convertvector(q, F) * unit, v));
        const U sign = (U)v >> (32 - width) & SIGN >> (32 - width);
        const Bytes code = __builtin_convertvector((U)q | sign, Bytes);
        __builtin_memcpy(codes, &code, W);
    }
};

// Eight codes of a byte each to `width` bytes.
inline void pack(const uint8_t* bytes, int64_t words, int width, uint8_t* codes) {
    uint8_t* const end = codes + words * width;
    if (width == 4) {  // the usual one, at several words an instruction
        for (; end - codes >= 2 * W; bytes += 4 * W, codes += 2 * W) {
            Halves two;
            __builtin_memcpy(&two, bytes, sizeof two);
            const Codes packed = __builtin_convertvector(two | two >> 4, Codes);
            __builtin_memcpy(codes, &packed, sizeof packed);
        }
    }
    for (; codes < end; bytes += 8, codes += width) {
        uint64_t eight;
        __builtin_memcpy(&eight, bytes, 8);
        const uint64_t word = squeeze(eight, width);
        // In one piece, where what follows is ours and yet to be written.
        if (end - codes >= 8) __builtin_memcpy(codes, &word, 8);
        else __builtin_memcpy(codes, &word, width);
    }
}

void quantize(const float* total, float* c, int64_t n, int64_t first, int width, float scale, uint64_t key,
              uint8_t* codes, const float* next_g, const float* next_e) {
    const float levels = static_cast<float>((1 << (width - 1)) - 1);
    const float exact = levels / scale;  // infinite where the scale is 0 or hardly more
    const int64_t pair = first / 2;
    const uint32_t high = static_cast<uint32_t>(static_cast<uint64_t>(pair) >> 32);
    const Quantizer quantizer{F{} + (exact < __FLT_MAX__ ? exact : __FLT_MAX__), F{} + levels,
                              F{} + scale / levels, width, static_cast<uint32_t>(key) + high * 0x9e3779b9u,
                              static_cast<uint32_t>(key >> 32)};
    // First all codes, then all words: each loop has few enough instructions for several turns at once.
    uint8_t bytes[BLOCK + PAIRS];
    int64_t i = 0;
    for (; i + PAIRS <= n; i += PAIRS) {
        for (int64_t j = 0; j < PAIRS; j += LINE) {
            __builtin_prefetch(next_g + i + j);
            __builtin_prefetch(next_e + i + j);
        }
        quantizer.pairs(total + i, c ? c + i : nullptr, static_cast<uint32_t>(pair + i / 2), bytes + i);
    }
    if (i < n) {
        float rest[PAIRS] = {}, lost[PAIRS];
        __builtin_memcpy(rest, total + i, (n - i) * 4);
        quantizer.pairs(rest, lost, static_cast<uint32_t>(pair + i / 2), bytes + i);
        if (c) __builtin_memcpy(c + i, lost, (n - i) * 4);
    }
    pack(bytes, (n + 7) / 8, width, codes);
}

void dequantize(const uint8_t* codes, int width, float scale, float weight, float* out, int64_t n) {
    const int32_t levels = (1 << (width - 1)) - 1;
    const F unit = F{} + scale / static_cast<float>(levels);
    const uint8_t* const end = codes + (n + 7) / 8 * width;
    const auto add_group = [&](float* to, int64_t words) {
        uint64_t eights[WORDS] = {};
        for (int64_t j = 0; j < words; ++j, codes += width) {
            uint64_t word = 0;
            if (end - codes >= 8) __builtin_memcpy(&word, codes, 8);
            else __builtin_memcpy(&word, codes, width);
            eights[j] = spread(word, width);
        }
        for (int64_t j = 0; j < GROUP; j += W) {
            const I q = codes_of(eights, j / W);
            const F size = __builtin_convertvector(q & levels, F) * unit;
            store(to + j, load(to + j) + float_of(bits_of(size) | (q >> (width - 1)) << 31) * weight);
        }
    };
    int64_t i = 0;
    for (; i + GROUP <= n; i += GROUP) {
        ask_for(out + i);
        add_group(out + i, WORDS);
    }
    if (i == n) return;
    float rest[GROUP] = {};
    __builtin_memcpy(rest, out + i, (n - i) * 4);
    add_group(rest, (n - i + 7) / 8);
    __builtin_memcpy(out + i, rest, (n - i) * 4);
}

constexpr Blocks table(const char* name, bool (*supported)()) {
    return {name, supported, select, count, sign, unsign, add_signs, add, quantize, dequantize};
}

}  // namespace
