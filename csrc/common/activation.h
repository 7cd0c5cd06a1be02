// Activations by their slope below zero: 1 none, 0 relu, 0.2 leaky_relu. V is a float or a vector of floats.
#pragma once

#include "host_device.h"

namespace cgcl {
namespace {  // internal linkage: kernels built for different processors include it

template <class V>
CGCL_HOST_DEVICE V activate(V v, float slope) {
  return v > 0.0f ? v : v * slope;
}

// The gradient g of the activation's result as that of its argument `pre`.
template <class V>
CGCL_HOST_DEVICE V before_activation(V g, V pre, float slope) {
  return pre > 0.0f ? g : g * slope;
}

}  // namespace
}  // namespace cgcl
