// Activations by their slope below zero: 1 none, 0 relu, 0.2 leaky_relu. V is a float or a vector of floats.
#pragma once

#include "host_device.h"

namespace cgcl {
namespace {  // internal linkage: kernels built for different processors include it

// With slope 0, select instead of multiplying: 0·∞ would be NaN. NaN inputs stay NaN.
template <class V>
CGCL_HOST_DEVICE V activate(V v, float slope) {
  if (slope == 0.0f) return v < 0.0f ? V{} : v;
  return v > 0.0f ? v : v * slope;
}

// Backward of the activation at its input `pre`: g·act'(pre). NaN is treated as by PyTorch's activations.
template <class V>
CGCL_HOST_DEVICE V before_activation(V g, V pre, float slope) {
  if (slope == 0.0f) return pre <= 0.0f ? V{} : g;
  return pre > 0.0f ? g : g * slope;
}

// The factor scale·rstd of the gradient to x, or a mean that it subtracts. If one is infinite, the gradient is NaN: its mean
// term is ∞ - ∞.
template <class V>
CGCL_HOST_DEVICE V gradient_gain(V gain) {
  return gain - gain + gain;
}

}  // namespace
}  // namespace cgcl
