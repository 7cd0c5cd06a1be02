#pragma once

#include "host_device.h"

namespace cgcl {
namespace {  // internal linkage: kernels built for different processors include it

// Count, mean and centred sum of squares, merged by the formula of Chan et al. (1979): never E[x²] - E[x]².
template <class Real>
struct BasicMoments {
  Real count = 0, mean = 0, m2 = 0;
  CGCL_HOST_DEVICE void add(Real n, Real part_mean, Real part_m2) {
    const Real total = count + n, delta = part_mean - mean;
    if (!(total > 0)) return;  // two empty parts
    m2 += part_m2 + delta * delta * count * n / total;
    mean += delta * n / total;
    count = total;
  }
};
using Moments = BasicMoments<double>;

// Moments of n values from Σ(x - pivot) and Σ(x - pivot)²; the pivot must be close to the values.
template <class Real>
CGCL_HOST_DEVICE BasicMoments<Real> moments_around(Real pivot, Real n, Real sum, Real squares) {
  if (!(n > 0)) return {};
  const Real offset = sum / n, m2 = squares - sum * offset;
  if (m2 != m2 && offset - offset == 0)
    return {n, pivot + offset, squares};  // squares overflowed: infinite, not NaN (∞ - ∞)
  return {n, pivot + offset, m2 < 0 ? Real(0) : m2};  // NaN stays
}

}  // namespace
}  // namespace cgcl
