// One entry for all kernels: arguments as slots of 8 bytes, for callers to whom each argument costs time.
//
// Python's ctypes takes about half a microsecond an argument, and struct.pack that for all of them together. To ask
// a NumPy array for its address takes one to five more, so that a slot may hold the array itself: then its data's
// address stands `offset` bytes into it, where every extension that was compiled with NumPy's headers reads it.
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.h"

namespace {

template <typename T>
T slot(const char* at, int64_t) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

template <typename T>
T data(const char* at, int64_t offset) {
    const char* object = slot<const char*>(at, 0);
    return slot<T>(offset && object ? object + offset : at, 0);
}

template <auto kernel>
struct Packed;

template <typename Result, typename... Arguments, Result (*kernel)(Arguments...)>
struct Packed<kernel> {
    static int64_t call(const char* slots, int64_t offset) {
        return spread(slots, offset, std::index_sequence_for<Arguments...>());
    }

    template <size_t... place>
    static int64_t spread(const char* slots, int64_t offset, std::index_sequence<place...>) {
        return kernel((std::is_pointer_v<Arguments> ? data<Arguments> : slot<Arguments>)(slots + 8 * place, offset)...);
    }
};

int64_t (*const KERNELS[])(const char*, int64_t) = {
    Packed<hpc_add_topk>::call,      Packed<hpc_add_threshold>::call,   Packed<hpc_add_sign>::call,
    Packed<hpc_sign_residual>::call, Packed<hpc_add_signs>::call,       Packed<hpc_majority>::call,
    Packed<hpc_add_quantize>::call,  Packed<hpc_add_dequantized>::call, Packed<hpc_scatter_add>::call,
    Packed<hpc_merge_add>::call,     Packed<hpc_encode_gaps>::call,     Packed<hpc_decode_gaps>::call,
    Packed<hpc_encode_mask>::call,   Packed<hpc_decode_mask>::call,
};

}  // namespace

// The kernel of that number, in the order of kernels.h. Where `offset` is 0 slots hold addresses.
extern "C" int64_t hpc_call(int32_t kernel, const char* slots, int64_t offset) {
    return KERNELS[kernel](slots, offset);
}
