// Bilinear interpolation of scores and a sortable integer for each score, for dag_select.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace cgcl {
namespace {

// The two neighbouring pixels of an output position, as offsets, and the weight of the second.
struct Tap {
  int64_t low, high;
  float weight;
};

// Neighbours of position i of `length` on an axis of `size` pixels, `stride` apart. Pixel centres are at half-integers
// (align_corners=False); positions before the first pixel's centre are clamped to it.
CGCL_HOST_DEVICE Tap tap_of(int64_t i, int64_t length, int64_t size, int64_t stride) {
  const float scale = float(size) / float(length);
  float source = (float(i) + 0.5f) * scale - 0.5f;
  source = source > 0.0f ? source : 0.0f;
  const int64_t floor = int64_t(source), low = floor < size - 1 ? floor : size - 1;
  return {low * stride, (low + 1 < size ? low + 1 : size - 1) * stride, source - float(low)};
}

template <typename T>
CGCL_HOST_DEVICE float bilinear(const T* image, const Tap& y, const Tap& x) {
  const T *const top = image + y.low, *const bottom = image + y.high;
  const float left = 1.0f - x.weight, right = x.weight;
  const float above = left * to_float(top[x.low]) + right * to_float(top[x.high]);
  const float below = left * to_float(bottom[x.low]) + right * to_float(bottom[x.high]);
  return (1.0f - y.weight) * above + y.weight * below;
}

// An unsigned integer that sorts as the values do: -0 equals 0, NaN comes last.
CGCL_HOST_DEVICE uint32_t rank_of(float value) {
  if (value != value) return 0xffffffffu;
  const uint32_t bits = bits_of(value + 0.0f);
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
}

}  // namespace
}  // namespace cgcl
