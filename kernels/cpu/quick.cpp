// A call of a kernel on arrays as they are: one argument, and no question to NumPy.
//
// Beside few elements Python's looking at each array takes longer than the kernel. Here the same is looked at as in
// hpc_fl/backends/checks.py. Where anything is not as usual, nothing is written and the answer is UNUSUAL:
// the caller goes the long way, which says what is wrong, or finds that it will do. Slots hold arrays as objects
// (CPython's id), numbers as int32, int64 or double. What is returned: 0 or more as said in backend.py, else minus
// a status.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels.h"
#include "magnitude.h"
#include "objects.h"
#include "parts.h"

Known known{};

namespace {

constexpr int64_t PER_THREAD = 65536;  // as in hpc_fl/backends/native.py
constexpr int64_t MAX_N = std::numeric_limits<int32_t>::max();
constexpr double GREATEST = std::numeric_limits<float>::max();

// An update with what was kept back, and where the next is kept.
struct Update {
    const float* g;
    const float* e;
    float* c;
};

int64_t divided_up(int64_t n, int64_t by) { return n / by + (n % by != 0); }

// The slots of g, e and c; the residual itself is never written.
Update update_of(Slots& at, int64_t* n, bool* usual) {
    const float* const g = at.array<const float>(n);
    const float* const e = at.perhaps<const float>(*n);
    float* const c = at.perhaps<float>(*n);
    *usual = at.usual() && *n <= MAX_N && (!c || c != e);
    return {g, e, c};
}

int32_t threads_for(int64_t n, int32_t most) {
    return n < 2 * PER_THREAD ? 1 : static_cast<int32_t>(std::min<int64_t>(most, n / PER_THREAD));
}

// What struct.pack has no float32 for is unusual.
bool is_float(double x) { return !(std::fabs(x) > GREATEST) || std::isinf(x); }

bool is_format(int32_t width, int64_t block) {
    return width >= 2 && width <= 8 && block >= 8 && block <= MAX_N && block % 8 == 0;
}

}  // namespace

extern "C" {

// Once, before all others.
void hpc_know(const Known* objects) { known = *objects; }

double hpc_quick_add_topk(const char* slots) {
    Slots at(slots);
    int64_t n, k;
    bool usual;
    const int32_t isa = at.number<int32_t>(), most = at.number<int32_t>();
    const double hint = at.number<double>();
    const Update update = update_of(at, &n, &usual);
    int32_t* const indices = at.array<int32_t>(&k);
    float* const values = at.array_of<float>(k);
    if (!usual || !at.usual() || k > n || !(hint >= 0)) return -UNUSUAL;
    const int64_t key = hpc_add_topk(isa, threads_for(n, most), update.g, update.e, update.c, n, k,
                                     static_cast<float>(std::min(hint, GREATEST)), indices, values);
    return key < 0 ? static_cast<double>(key) : magnitude_of(static_cast<uint32_t>(key));
}

int64_t hpc_quick_add_threshold(const char* slots) {
    Slots at(slots);
    int64_t n;
    bool usual;
    const int32_t isa = at.number<int32_t>(), most = at.number<int32_t>();
    const double tau = at.number<double>();
    const Update update = update_of(at, &n, &usual);
    int32_t* const indices = at.array_of<int32_t>(n);
    float* const values = at.array_of<float>(n);
    if (!usual || !at.usual() || !(tau >= 0)) return -UNUSUAL;
    return hpc_add_threshold(isa, threads_for(n, most), update.g, update.e, update.c, n,
                             static_cast<float>(std::min(tau, GREATEST)), indices, values);
}

int64_t hpc_quick_add_sign(const char* slots) {
    Slots at(slots);
    int64_t n, cuts;
    bool usual;
    const int32_t isa = at.number<int32_t>(), most = at.number<int32_t>();
    const Update update = update_of(at, &n, &usual);
    const int64_t* const bounds = at.array<const int64_t>(&cuts);
    const float* const e_scales = at.perhaps<const float>(cuts - 1);
    uint8_t* const bits = at.array_of<uint8_t>(divided_up(n, 8));
    float* const scales = at.array_of<float>(cuts - 1);
    if (!usual || !at.usual() || !update.e != !e_scales) return -UNUSUAL;
    return -hpc_add_sign(isa, threads_for(n, most), update.g, update.e, e_scales, update.c, n, bounds, cuts - 1,
                         bits, scales);
}

int64_t hpc_quick_sign_residual(const char* slots) {
    Slots at(slots);
    int64_t n, cuts;
    const int32_t isa = at.number<int32_t>(), most = at.number<int32_t>();
    const float* const c = at.array<const float>(&n);
    const int64_t* const bounds = at.array<const int64_t>(&cuts);
    const float* const scales = at.array_of<const float>(cuts - 1);
    float* const out = at.array_of<float>(n);
    if (!at.usual()) return -UNUSUAL;
    return -hpc_sign_residual(isa, threads_for(n, most), c, n, bounds, cuts - 1, scales, out);
}

int64_t hpc_quick_add_signs(const char* slots) {
    Slots at(slots);
    int64_t n, cuts;
    const int32_t isa = at.number<int32_t>(), most = at.number<int32_t>();
    const double weight = at.number<double>();
    float* const out = at.array<float>(&n);
    const uint8_t* const bits = at.array_of<const uint8_t>(divided_up(n, 8));
    const int64_t* const bounds = at.array<const int64_t>(&cuts);
    const float* const scales = at.array_of<const float>(cuts - 1);
    if (!at.usual() || !is_float(weight)) return -UNUSUAL;
    return -hpc_add_signs(isa, threads_for(n, most), bits, n, bounds, cuts - 1, scales,
                          static_cast<float>(weight), out);
}

int64_t hpc_quick_scatter_add(const char* slots) {
    Slots at(slots);
    int64_t k, n;
    const int32_t most = at.number<int32_t>();
    const double weight = at.number<double>();
    const int32_t* const indices = at.array<const int32_t>(&k);
    const float* const values = at.array_of<const float>(k);
    float* const out = at.array<float>(&n);
    if (!at.usual() || !is_float(weight)) return -UNUSUAL;
    return -hpc_scatter_add(threads_for(k, most), indices, values, k, static_cast<float>(weight), out, n);
}

int64_t hpc_quick_add_quantize(const char* slots) {
    Slots at(slots);
    int64_t n;
    bool usual;
    const int32_t isa = at.number<int32_t>(), most = at.number<int32_t>(), width = at.number<int32_t>();
    const int64_t block = at.number<int64_t>();
    const uint64_t key = at.number<uint64_t>();
    const Update update = update_of(at, &n, &usual);
    if (!usual || !is_format(width, block)) return -UNUSUAL;
    uint8_t* const codes = at.array_of<uint8_t>(divided_up(n, 8) * width);
    float* const scales = at.array_of<float>(divided_up(n, block));
    if (!at.usual()) return -UNUSUAL;
    return -hpc_add_quantize(isa, threads_for(n, most), update.g, update.e, update.c, n, width, block, key,
                             codes, scales);
}

int64_t hpc_quick_add_dequantized(const char* slots) {
    Slots at(slots);
    int64_t n;
    const int32_t isa = at.number<int32_t>(), most = at.number<int32_t>(), width = at.number<int32_t>();
    const int64_t block = at.number<int64_t>();
    const double weight = at.number<double>();
    float* const out = at.array<float>(&n);
    if (!at.usual() || !is_format(width, block) || !is_float(weight)) return -UNUSUAL;
    const uint8_t* const codes = at.array_of<const uint8_t>(divided_up(n, 8) * width);
    const float* const scales = at.array_of<const float>(divided_up(n, block));
    if (!at.usual()) return -UNUSUAL;
    return -hpc_add_dequantized(isa, threads_for(n, most), codes, scales, width, block,
                                static_cast<float>(weight), out, n);
}

}  // extern "C"
