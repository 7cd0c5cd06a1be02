// Memory for large results that are written whole.
#pragma once

#include "tensor.h"

namespace cgcl {

// An uninitialised map (B, C, H, W). Above 32 MiB the allocator maps fresh pages for every tensor and gives them back
// afterwards, and then the page faults take ten times as long as the stores. So the two last blocks of that size are kept
// when their tensors are freed, for the next tensors of the same sizes (CUT gathers from two such layers at 256x256);
// meanwhile the system may take their pages if memory is short.
Tensor empty_large_map(int64_t B, int64_t C, int64_t H, int64_t W, ScalarType type, bool channels_last);

}  // namespace cgcl
