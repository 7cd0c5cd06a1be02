// A small cache of freed memory blocks for large results, which saves page faults.
#pragma once

#include "tensor.h"

namespace cgcl {

// An uninitialised map (B, C, H, W), for results that are written in full. From 32 MiB on, the allocator maps fresh pages for
// every tensor and returns them on release, and the page faults take ten times as long as the stores. So the last two freed
// blocks of that size are kept for the next tensors of the same size (CUT gathers from two such layers at 256x256). The system
// may reclaim their pages if memory runs short.
Tensor empty_large_map(int64_t B, int64_t C, int64_t H, int64_t W, ScalarType type, bool channels_last);

}  // namespace cgcl
