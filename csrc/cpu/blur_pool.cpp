// cgcl_fast::_blur_down, _blur_up and their gradients on the CPU.
#include "kernels/blur_pool.h"

#include "../common/blur_sizes.h"
#include "../common/layout.h"
#include "page_cache.h"
#include "scratch.h"
#include "tensor.h"

namespace cgcl {
namespace {

Tensor blurred(Blur blur, const Tensor& from, MapSize size, bool channels_last, int dtype) {
  const int64_t B = from.size(0), C = from.size(1), from_h = from.size(2), from_w = from.size(3);
  const auto [H, W] = size;
  Tensor to = empty_large_map(B, C, H, W, from.scalar_type(), channels_last);
  if (B * C * H * W == 0) return to;
  const BlurArgs args{C, H, W, from_h, from_w, map_of(from), map_of(to)};
  const bool pixels = channels_last && from.stride(1) == 1;
  const auto kernel = (pixels ? blur_kernels().pixels : blur_kernels().planes)[int(blur)][dtype];
  const int64_t rows = !pixels ? B * C * H : blur == Blur::up ? B * (from_h + 1) : B * H, work = pixels ? C * W : W;
  const int64_t floats = pixels ? kBlurSpan * kBlurChannels : from_w + W + 2;
  parallel(rows, 2 * work, [&](int64_t begin, int64_t end) {
    const Scratch scratch(floats);
    kernel(args, begin, end, scratch.data());
  });
  return to;
}

Tensor blur_down(Tensor x) {
  const MapSize size = blur_down_size(x);
  return blurred(Blur::down, x, size, is_channels_last(x), int(dtype_of(x, "blur_down", "x")));
}

Tensor blur_down_backward(Tensor grad, int64_t height, int64_t width, bool channels_last) {
  const MapSize size = blur_down_backward_size(grad, height, width);
  return blurred(Blur::down_backward, grad, size, channels_last, int(dtype_of(grad, "blur_down", "grad")));
}

Tensor blur_up(Tensor x) {
  const MapSize size = blur_up_size(x);
  return blurred(Blur::up, x, size, is_channels_last(x), int(dtype_of(x, "blur_up", "x")));
}

Tensor blur_up_backward(Tensor grad, bool channels_last) {
  const MapSize size = blur_up_backward_size(grad);
  return blurred(Blur::up_backward, grad, size, channels_last, int(dtype_of(grad, "blur_up", "grad")));
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_blur_down", TORCH_BOX(&cgcl::blur_down));
  m.impl("_blur_down_backward", TORCH_BOX(&cgcl::blur_down_backward));
  m.impl("_blur_up", TORCH_BOX(&cgcl::blur_up));
  m.impl("_blur_up_backward", TORCH_BOX(&cgcl::blur_up_backward));
}
