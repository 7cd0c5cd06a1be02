// cgcl_fast::_blur_down, _blur_up and their gradients in CUDA C++, for programs without Python (exported generators contain
// _blur_down and _blur_up). One thread per result element; inputs shared by neighbours come from the L1 cache.
#include "../common/blur.h"
#include "../common/blur_sizes.h"
#include "launch.h"

namespace cgcl {
namespace {

constexpr int kThreads = 256;

struct BlurCall {
  int64_t count, C, H, W, from_h, from_w;
  Map from, to;
  bool channels_last;
};

template <Blur kBlur, typename T>
__global__ void __launch_bounds__(kThreads) blur(BlurCall a) {
  int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= a.count) return;
  int64_t c = 0;
  if (a.channels_last) {
    c = i % a.C;
    i /= a.C;
  }
  const int64_t w = i % a.W, row = i / a.W, h = row % a.H;
  int64_t b = row / a.H;
  if (!a.channels_last) {
    c = b % a.C;
    b /= a.C;
  }
  constexpr int N = kTaps<kBlur>;
  const Taps<N> down = taps_of<kBlur>(h, a.H, a.from_h), across = taps_of<kBlur>(w, a.W, a.from_w);
  const T* const from = static_cast<const T*>(a.from.data) + b * a.from.stride_b + c * a.from.stride_c;
  float sum = 0;
  for (int k = 0; k < N; ++k)
    for (int l = 0; l < N; ++l)
      sum += to_float(from[down.at[k] * a.from.stride_h + across.at[l] * a.from.stride_w]) *
             (down.weight[k] * across.weight[l]);
  T* const to = static_cast<T*>(a.to.data) + b * a.to.stride_b + c * a.to.stride_c;
  from_float(to + h * a.to.stride_h + w * a.to.stride_w, sum);
}

template <Blur kBlur>
Tensor blurred(const Tensor& from, const char* op, const char* argument, MapSize size, bool channels_last) {
  const OnDevice device(from, op, argument);
  const auto [H, W] = size;
  Tensor to = empty_map(from, {from.size(0), from.size(1), H, W}, channels_last);
  const BlurCall call{to.numel(), from.size(1), H, W, from.size(2), from.size(3), map_of(from), map_of(to), channels_last};
  with_element(from, op, argument, [&](auto element) {
    device.launch(blur<kBlur, decltype(element)>, ceil_div(call.count, kThreads), kThreads, call);
  });
  return to;
}

Tensor blur_down(Tensor x) {
  const MapSize size = blur_down_size(x);
  return blurred<Blur::down>(x, "blur_down", "x", size, is_channels_last(x));
}

Tensor blur_down_backward(Tensor grad, int64_t height, int64_t width, bool channels_last) {
  const MapSize size = blur_down_backward_size(grad, height, width);
  return blurred<Blur::down_backward>(grad, "blur_down", "grad", size, channels_last);
}

Tensor blur_up(Tensor x) {
  const MapSize size = blur_up_size(x);
  return blurred<Blur::up>(x, "blur_up", "x", size, is_channels_last(x));
}

Tensor blur_up_backward(Tensor grad, bool channels_last) {
  const MapSize size = blur_up_backward_size(grad);
  return blurred<Blur::up_backward>(grad, "blur_up", "grad", size, channels_last);
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CUDA, m) {
  m.impl("_blur_down", TORCH_BOX(&cgcl::blur_down));
  m.impl("_blur_down_backward", TORCH_BOX(&cgcl::blur_down_backward));
  m.impl("_blur_up", TORCH_BOX(&cgcl::blur_up));
  m.impl("_blur_up_backward", TORCH_BOX(&cgcl::blur_up_backward));
}
