// The blur filters along one axis: which source positions contribute to a result position, and with what weight.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace cgcl {

// Halving with [1, 2, 1] / 4 after reflection padding, doubling with the transposed [1, 3, 3, 1] / 4 after replication
// padding, and the transpose (backward) of each.
enum class Blur { down, down_backward, up, up_backward };

namespace {  // internal linkage: kernels built for different processors include it

template <Blur kBlur>
constexpr int kTaps = kBlur == Blur::down          ? 3
                      : kBlur == Blur::up_backward ? 4
                                                   : 2;

// Weights are never zero: zero times infinity would be NaN.
template <int N>
struct Taps {
  int64_t at[N];
  float weight[N];
};

// The taps of result position i of `length`; the source has `from` positions.
template <Blur kBlur>
CGCL_HOST_DEVICE Taps<kTaps<kBlur>> taps_of(int64_t i, [[maybe_unused]] int64_t length, int64_t from) {
  if constexpr (kBlur == Blur::down) {
    return {{i == 0 ? 1 : 2 * i - 1, 2 * i, 2 * i + 1 < from ? 2 * i + 1 : from - 2}, {0.25f, 0.5f, 0.25f}};
  } else if constexpr (kBlur == Blur::up) {
    const int64_t near = i / 2, far = i % 2 == 0 ? near - 1 : near + 1;
    return {{near, far < 0 ? 0 : far < from ? far : from - 1}, {0.75f, 0.25f}};
  } else if constexpr (kBlur == Blur::up_backward) {
    const int64_t first = 2 * i - 1, last = 2 * i + 2;
    return {{first < 0 ? 0 : first, 2 * i, 2 * i + 1, last < from ? last : from - 1}, {0.25f, 0.75f, 0.75f, 0.25f}};
  } else {
    const int64_t j = i / 2;
    if (i % 2 == 0) return {{j, j}, {0.25f, 0.25f}};
    // Reflection reads positions 1 and length - 2 (if length is odd) one more time.
    const float before = i == 1 ? 0.5f : 0.25f, after = i == length - 2 ? 0.5f : 0.25f;
    if (j + 1 == from) return {{j, j}, {before / 2, before / 2}};
    return {{j, j + 1}, {before, after}};
  }
}

}  // namespace
}  // namespace cgcl
