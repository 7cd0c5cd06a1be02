// Padding of a map and its gradient, as a pass of its own, for kernels that do not pad themselves.
#pragma once

#include "../common/pad.h"
#include "block.cuh"
#include "launch.h"

namespace cgcl {
namespace {

constexpr int kPadThreads = 256;

// The element of a map that a thread handles; neighbouring threads take neighbours in memory.
struct Element {
  int64_t b, c, h, w;

  __device__ Element(int64_t i, int64_t C, int64_t H, int64_t W, bool channels_last) {
    if (channels_last) c = i % C, i /= C;
    w = i % W, i /= W;
    h = i % H, i /= H;
    if (!channels_last) c = i % C, i /= C;
    b = i;
  }
};

template <typename T>
__device__ inline T* element_at(const Map& map, int64_t b, int64_t c, int64_t h, int64_t w) {
  return static_cast<T*>(map.data) + b * map.stride_b + c * map.stride_c + h * map.stride_h + w * map.stride_w;
}

// H and W are those of the unpadded map; `residual`, unless null, is added to the padded one.
template <typename T>
__global__ void __launch_bounds__(kPadThreads) pad_elements(Map from, Map to, int64_t C, int64_t H, int64_t W, Pad pad,
                                                            bool channels_last, int64_t count, Map residual) {
  const int64_t i = int64_t(blockIdx.x) * kPadThreads + threadIdx.x;
  if (i >= count) return;
  const Element e(i, C, H + 2 * pad.size, W + 2 * pad.size, channels_last);
  const int64_t h = shown_at(e.h - pad.size, H, pad), w = shown_at(e.w - pad.size, W, pad);
  T* const target = element_at<T>(to, e.b, e.c, e.h, e.w);
  *target = *element_at<T>(from, e.b, e.c, h, w);
  if (residual.data != nullptr)
    from_float(target, to_float(*target) + to_float(*element_at<T>(residual, e.b, e.c, e.h, e.w)));
}

template <typename T>
__global__ void __launch_bounds__(kPadThreads)
    fold_elements(Map from, Map to, int64_t C, int64_t H, int64_t W, Pad pad, bool channels_last, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kPadThreads + threadIdx.x;
  if (i >= count) return;
  const Element e(i, C, H, W, channels_last);
  const Images rows = images_of(e.h, H, pad), columns = images_of(e.w, W, pad);
  float total = 0;
  for (int64_t r = 0; r < rows.count(); ++r)
    for (int64_t k = 0; k < columns.count(); ++k)
      total += to_float(*element_at<T>(from, e.b, e.c, rows.at(r) + pad.size, columns.at(k) + pad.size));
  from_float(element_at<T>(to, e.b, e.c, e.h, e.w), total);
}

template <typename T, class Kernel, class... Others>
void over_elements(const OnDevice& device, Kernel kernel, const Tensor& from, Tensor& to, const Tensor& unpadded, Pad pad,
                   Others... others) {
  const int64_t count = to.numel();
  device.launch(kernel, ceil_div(count, kPadThreads), kPadThreads, map_of(from), map_of(to), unpadded.size(1),
                unpadded.size(2), unpadded.size(3), pad, is_channels_last(to), count, others...);
}

template <typename T>
Tensor padded(const OnDevice& device, const Tensor& x, Pad pad, Map residual = {}) {
  Tensor y = empty_map(x, {x.size(0), x.size(1), x.size(2) + 2 * pad.size, x.size(3) + 2 * pad.size}, is_channels_last(x));
  over_elements<T>(device, pad_elements<T>, x, y, x, pad, residual);
  return y;
}

template <typename T>
Tensor folded(const OnDevice& device, const Tensor& grad, Pad pad, bool channels_last) {
  Tensor dx = empty_map(grad, {grad.size(0), grad.size(1), grad.size(2) - 2 * pad.size, grad.size(3) - 2 * pad.size},
                        channels_last);
  over_elements<T>(device, fold_elements<T>, grad, dx, dx, pad);
  return dx;
}

}  // namespace
}  // namespace cgcl
