// Element types that the kernels read and write. Arithmetic is always float32.
#pragma once

#include <cstdint>

namespace cgcl {

enum class Dtype { float32, bfloat16 };

// Bits of a bfloat16; its own type so that overloads tell it from an integer.
struct bf16 {
  uint16_t bits;
};

}  // namespace cgcl
