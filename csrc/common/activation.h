// Activations by their slope below zero: 1 none, 0 relu, 0.2 leaky_relu. V is a float or a vector of floats.
#pragma once

#include "host_device.h"

namespace cgcl {
namespace {  // internal linkage: kernels built for different processors include it

// A slope of zero is not multiplied with: 0·∞ would be NaN. NaN stays.
template <class V>
CGCL_HOST_DEVICE V activate(V v, float slope) {
  if (slope == 0.0f) return v < 0.0f ? V{} : v;
  return v > 0.0f ? v : v * slope;
}

// The gradient g of the activation's result as that of its argument `pre`; of NaN as PyTorch's activations have it.
template <class V>
CGCL_HOST_DEVICE V before_activation(V g, V pre, float slope) {
  if (slope == 0.0f) return pre <= 0.0f ? V{} : g;
  return pre > 0.0f ? g : g * slope;
}

// What a gradient to x is scaled by, scale·rstd: infinite, it leaves no gradient a number (its mean is ∞ - ∞).
template <class V>
CGCL_HOST_DEVICE V gradient_gain(V gain) {
  return gain - gain + gain;
}

}  // namespace
}  // namespace cgcl
