// The instruction sets by number.
#include "blocks.h"

namespace {
const Blocks* const SETS[] = {&blocks_portable, &blocks_avx2, &blocks_avx512};
}

const Blocks& blocks_of(int32_t isa) { return *SETS[isa]; }

extern "C" {

int32_t hpc_isa_count() { return sizeof SETS / sizeof *SETS; }

const char* hpc_isa_name(int32_t isa) { return SETS[isa]->name; }

// Whether this processor can run it.
int32_t hpc_isa_supported(int32_t isa) { return SETS[isa]->supported(); }

}  // extern "C"
