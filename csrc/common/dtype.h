// Element types of the kernels' inputs and outputs. All arithmetic is in float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace cgcl {

enum class Dtype { float32, bfloat16 };  // those with CPU kernels

// Bits of a bfloat16 or float16, as distinct types so that overloads can tell them from integers.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

namespace {  // internal linkage: kernels built for different processors include it

CGCL_HOST_DEVICE uint32_t bits_of(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits;
}
CGCL_HOST_DEVICE float float_of(uint32_t bits) {
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

CGCL_HOST_DEVICE float to_float(float v) { return v; }
CGCL_HOST_DEVICE float to_float(bf16 v) { return float_of(uint32_t(v.bits) << 16); }
CGCL_HOST_DEVICE float to_float(f16 v) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(v.bits));
  return wide;
#else
  const uint32_t sign = uint32_t(v.bits & 0x8000u) << 16, magnitude = v.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // infinity, NaN
  // The exponent is 112 below a float32's; multiplying by 2^112 corrects it, for subnormal numbers too.
  const float value = float_of(magnitude << 13) * float_of(239u << 23);
  return float_of(sign | bits_of(value));
#endif
}

// Round to nearest, ties to even; every NaN becomes the same NaN.
CGCL_HOST_DEVICE void from_float(float* p, float v) { *p = v; }
CGCL_HOST_DEVICE void from_float(bf16* p, float v) {
  const uint32_t bits = bits_of(v);
  p->bits = v != v ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
CGCL_HOST_DEVICE void from_float(f16* p, float v) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(p->bits) : "f"(v));
#else
  const uint32_t bits = bits_of(v), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7fff;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more
    half = 0x7c00;
  } else if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds to the last place of a float16, 2^-24
    half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  p->bits = uint16_t(v != v ? half : sign | half);
#endif
}

}  // namespace
}  // namespace cgcl
