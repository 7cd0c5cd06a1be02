// Feature maps as the kernels address them: a pointer and strides.
#pragma once

#include <cstdint>

namespace cgcl {

// A (B, C, H, W) map of any memory layout. Strides are in elements, and zero where a dimension is expanded.
struct Map {
  void* data = nullptr;
  int64_t stride_b = 0, stride_c = 0, stride_h = 0, stride_w = 0;
};

}  // namespace cgcl
