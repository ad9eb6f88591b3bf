// One entry for all kernels: arguments as slots of 8 bytes, for callers to whom each argument costs time.
//
// Python's ctypes takes about half a microsecond an argument, and struct.pack that for all of them together.
#include <cstddef>
#include <cstring>
#include <utility>

#include "kernels.h"

namespace {

template <typename T>
T slot(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

template <auto kernel>
struct Packed;

template <typename Result, typename... Arguments, Result (*kernel)(Arguments...)>
struct Packed<kernel> {
    static int64_t call(const char* slots) { return spread(slots, std::index_sequence_for<Arguments...>()); }

    template <size_t... place>
    static int64_t spread(const char* slots, std::index_sequence<place...>) {
        return kernel(slot<Arguments>(slots + 8 * place)...);
    }
};

int64_t (*const KERNELS[])(const char*) = {
    Packed<hpc_add_topk>::call,      Packed<hpc_add_threshold>::call,   Packed<hpc_add_sign>::call,
    Packed<hpc_sign_residual>::call, Packed<hpc_add_signs>::call,       Packed<hpc_majority>::call,
    Packed<hpc_add_quantize>::call,  Packed<hpc_add_dequantized>::call, Packed<hpc_scatter_add>::call,
    Packed<hpc_merge_add>::call,     Packed<hpc_encode_gaps>::call,     Packed<hpc_decode_gaps>::call,
    Packed<hpc_encode_mask>::call,   Packed<hpc_decode_mask>::call,
};

}  // namespace

// The kernel of that number, in the order of kernels.h.
extern "C" int64_t hpc_call(int32_t kernel, const char* slots) { return KERNELS[kernel](slots); }
