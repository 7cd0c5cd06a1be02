#pragma once

namespace cgcl {
namespace {  // internal linkage: kernels built for different processors include it

// Mean and centred sum of squares of parts, combined as Chan et al. do: never E[x²] - E[x]².
struct Moments {
  double count = 0, mean = 0, m2 = 0;
  void add(double n, double part_mean, double part_m2) {
    const double total = count + n, delta = part_mean - mean;
    m2 += part_m2 + delta * delta * count * n / total;
    mean += delta * n / total;
    count = total;
  }
};

}  // namespace
}  // namespace cgcl
