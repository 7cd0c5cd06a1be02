// Softmax over cosine similarities to memory items. Cosines are already divided by the temperature τ >=
// kMemoryMinTemperature, so that e^(±1/τ), the sums over pixels and their ratios stay within float32's range.
#pragma once

#include "host_device.h"

namespace cgcl {

constexpr float kMemoryZeroNorm = 1e-12f;  // vectors up to this length count as zero: cosine 0, gradient 0
constexpr double kMemoryMinTemperature = 0.02;
constexpr float kMemoryMasked = -1e30f;    // similarity to an item of another class

namespace {  // internal linkage: kernels built for different processors include it

// Reciprocal of a vector's length; NaN stays. V is a number or a vector of floats.
template <class V>
CGCL_HOST_DEVICE V reciprocal_of_norm(V norm) {
  return norm > kMemoryZeroNorm ? 1.0f / norm : (norm != norm ? norm : V{});
}

// The softmax normaliser: the factor of each e^cosine, given their sum. The sum is 0 if every item is masked; NaN stays.
// Cosines are bounded, so the maximum is not subtracted first.
template <class V>
CGCL_HOST_DEVICE V softmax_scale(V total) {
  return total == 0.0f ? V{} : 1.0f / total;
}

// An item's softmax weight from its cosine and e^cosine: 0 for a masked item, even if the normaliser is NaN.
template <class V>
CGCL_HOST_DEVICE V softmax_weight(V exponential, V cosine, V scale) {
  return cosine == kMemoryMasked ? V{} : exponential * scale;
}

// An item's term weight·gradient of `inner`. A masked item (weight 0) contributes 0, even if its gradient is NaN.
template <class V>
CGCL_HOST_DEVICE V softmax_inner(V weight, V gradient) {
  return weight == 0.0f ? V{} : weight * gradient;
}

// Softmax backward: the gradient to a cosine from the gradient to its weight; `inner` is Σ weight·gradient over items.
template <class V>
CGCL_HOST_DEVICE V softmax_gradient(V weight, V gradient, V inner) {
  return weight == 0.0f ? V{} : weight * (gradient - inner);
}

}  // namespace
}  // namespace cgcl
