// Scratch memory for the tiles of one thread.
#pragma once

#include <cstdlib>

#include "tensor.h"

namespace cgcl {

// Aligned for every vector type, and always alike, so that a matrix product of the same numbers gives the same bits.
class Scratch {
 public:
  explicit Scratch(int64_t floats)
      : data_(static_cast<float*>(std::aligned_alloc(64, (std::max<int64_t>(floats, 1) * 4 + 63) / 64 * 64))) {
    STD_TORCH_CHECK(data_ != nullptr, "cgcl_fast: not enough memory for ", floats * 4, " bytes of scratch");
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
};

}  // namespace cgcl
