// The C ABI of the kernels. hpc_fl/backends/backend.py says what each of them does; what it returns is said
// where it is defined. Statuses are those of parts.h. Where there is no e or no c: null.
#pragma once
#include <stdint.h>

// What is said of a row (n) and its slots (sources, n) once, for many calls; float32 or float64.
struct ShortRow {
    void *row, *slots;
    int64_t n, sources;
    double keep;
    const double* takes;
};

extern "C" {

int64_t hpc_add_topk(int32_t isa, int32_t threads, const float* g, const float* e, float* c, int64_t n,
                     int64_t k, float hint, int32_t* indices, float* values);
int64_t hpc_add_threshold(int32_t isa, int32_t threads, const float* g, const float* e, float* c, int64_t n,
                          float tau, int32_t* indices, float* values);
int32_t hpc_add_sign(int32_t isa, int32_t threads, const float* g, const float* e, const float* e_scales,
                     float* c, int64_t n, const int64_t* bounds, int64_t segments, uint8_t* bits,
                     float* scales);
int32_t hpc_sign_residual(int32_t isa, int32_t threads, const float* c, int64_t n, const int64_t* bounds,
                          int64_t segments, const float* scales, float* out);
int32_t hpc_add_signs(int32_t isa, int32_t threads, const uint8_t* bits, int64_t n, const int64_t* bounds,
                      int64_t segments, const float* scales, float weight, float* out);
int32_t hpc_majority(int32_t threads, const uint8_t* rows, int64_t m, int64_t nbytes, uint8_t* out);
int32_t hpc_add_quantize(int32_t isa, int32_t threads, const float* g, const float* e, float* c, int64_t n,
                         int32_t width, int64_t size, uint64_t key, uint8_t* codes, float* scales);
int32_t hpc_add_dequantized(int32_t isa, int32_t threads, const uint8_t* codes, const float* scales,
                            int32_t width, int64_t size, float weight, float* out, int64_t n);
int32_t hpc_scatter_add(int32_t threads, const int32_t* indices, const float* values, int64_t k, float weight,
                        float* out, int64_t n);
int64_t hpc_merge_add(const int32_t* a_indices, const float* a_values, int64_t a, const int32_t* b_indices,
                      const float* b_values, int64_t b, int32_t* indices, float* values);
int64_t hpc_encode_gaps(const int32_t* indices, int64_t k, uint8_t* out);
int64_t hpc_decode_gaps(const uint8_t* code, int64_t bytes, int64_t n, int32_t* indices, int64_t k);
int32_t hpc_encode_mask(const int32_t* indices, int64_t k, uint8_t* mask, int64_t bytes);
int32_t hpc_decode_mask(const uint8_t* mask, int64_t n, int32_t* indices, int64_t k);
int32_t hpc_short_row_ready_f4(const ShortRow* of);
int32_t hpc_short_row_ready_f8(const ShortRow* of);
void hpc_short_row_mix_f4(const ShortRow* of);
void hpc_short_row_mix_f8(const ShortRow* of);

}  // extern "C"
