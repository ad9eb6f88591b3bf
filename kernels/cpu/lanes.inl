// Vectors of W lanes, which isa_*.cpp has defined. A cast between them keeps the bits.
namespace {

typedef float F __attribute__((vector_size(4 * W)));
typedef float Unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));
typedef uint8_t Bytes __attribute__((vector_size(W)));
typedef uint16_t Halves __attribute__((vector_size(4 * W)));
typedef uint8_t Codes __attribute__((vector_size(2 * W)));

}  // namespace
