// One vector type per instruction set, from the compiler's vector extension. Included by csrc/cpu/kernels/*.cpp only:
// everything has internal linkage, so that the linker never substitutes AVX-512 code for code built for an older processor.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/dtype.h"

#if !defined(CGCL_VARIANT)
#error "compile csrc/cpu/kernels with -DCGCL_VARIANT=baseline|avx2|avx512 and -DCGCL_VECTOR_BYTES=16|32|64"
#endif

namespace cgcl {
namespace CGCL_VARIANT {
namespace {

constexpr int kLanes = CGCL_VECTOR_BYTES / 4;

typedef float vf __attribute__((vector_size(CGCL_VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(CGCL_VECTOR_BYTES)));
typedef uint32_t vu __attribute__((vector_size(CGCL_VECTOR_BYTES)));
typedef uint16_t vu16 __attribute__((vector_size(CGCL_VECTOR_BYTES / 2)));

inline vf broadcast(float value) { return vf{} + value; }

inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline vf load(const bf16* p) {
  vu16 half;
  std::memcpy(&half, p, sizeof half);
  return (vf)(__builtin_convertvector(half, vu) << 16);
}
inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
inline void store(bf16* p, vf v) {
  const vu bits = (vu)v;
  const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const vu nan = (vu)(v != v);
  const vu16 half = __builtin_convertvector((rounded & ~nan) | (0x7fc0u & nan), vu16);
  std::memcpy(p, &half, sizeof half);
}

// The first n < kLanes elements; the rest of the vector is zero.
template <typename T>
inline vf load_part(const T* p, int64_t n) {
  T tail[kLanes] = {};
  std::memcpy(tail, p, n * sizeof(T));
  return load(tail);
}
template <typename T>
inline void store_part(T* p, vf v, int64_t n) {
  T tail[kLanes];
  store(tail, v);
  std::memcpy(p, tail, n * sizeof(T));
}

inline vf max(vf a, vf b) { return a > b ? a : b; }
inline vf min(vf a, vf b) { return a < b ? a : b; }
inline float sum(vf v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}
inline float max(vf v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

// e^x to 1.5 ulp: x = n·ln2 + r, |r| <= ln2/2, degree-7 polynomial in r; 0 below -87.3, clamped to e^88.3 above, NaN kept.
inline vf exp(vf x) {
  const vf clamped = max(min(x, broadcast(88.3f)), broadcast(-87.3f));
  const vf magic = broadcast(12582912.0f);  // 1.5·2^23: adding it rounds to an integer in the low bits
  const vf shifted = clamped * 1.44269504f + magic;
  const vf n = shifted - magic;
  const vf r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  vf p = broadcast(1.98756915e-4f);
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345191e-3f;
  p = p * r + 4.16657959e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const vi exponent = (vi)shifted << 23;  // the integer n sits in the low bits of the shifted float
  const vf scaled = (vf)((vi)p + exponent);
  const vf zero = x < -87.3f ? vf{} : scaled;
  return x != x ? x : zero;
}

}  // namespace
}  // namespace CGCL_VARIANT
}  // namespace cgcl
