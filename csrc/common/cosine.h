// Cosine similarities to memory items, and the softmax over them. The cosines come divided by the temperature, which is
// at least kMemoryLeastTemperature: e^(±1/τ), the sums over pixels and their ratios stay within float32's range.
#pragma once

#include "host_device.h"

namespace cgcl {

constexpr float kMemoryZeroNorm = 1e-12f;  // vectors up to this length count as zero: cosine 0, gradient 0
constexpr double kMemoryLeastTemperature = 0.02;
constexpr float kMemoryMasked = -1e30f;    // similarity to an item of another class

namespace {  // internal linkage: kernels built for different processors include it

// One over a vector's length; NaN stays. V is a number or a vector of floats.
template <class V>
CGCL_HOST_DEVICE V reciprocal_of_norm(V norm) {
  return norm > kMemoryZeroNorm ? 1.0f / norm : (norm != norm ? norm : V{});
}

// What the weights e^cosine are multiplied with, given their sum, which is 0 where every item is masked; NaN stays. Cosines
// are bounded, so no maximum is subtracted from them.
template <class V>
CGCL_HOST_DEVICE V softmax_scale(V total) {
  return total == 0.0f ? V{} : 1.0f / total;
}

// The weight of an item in the softmax, from e^cosine and its cosine: 0 of a masked one even where the scale is NaN.
template <class V>
CGCL_HOST_DEVICE V softmax_weight(V exponential, V cosine, V scale) {
  return cosine == kMemoryMasked ? V{} : exponential * scale;
}

// Weight·gradient, the item's part of `inner`. Only a masked item has a weight of 0: nothing comes from it, not even NaN.
template <class V>
CGCL_HOST_DEVICE V softmax_inner(V weight, V gradient) {
  return weight == 0.0f ? V{} : weight * gradient;
}

// The gradient to a cosine from that to its weight, where `inner` is Σ weight·gradient over the items.
template <class V>
CGCL_HOST_DEVICE V softmax_gradient(V weight, V gradient, V inner) {
  return weight == 0.0f ? V{} : weight * (gradient - inner);
}

}  // namespace
}  // namespace cgcl
