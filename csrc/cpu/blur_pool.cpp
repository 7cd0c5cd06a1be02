// cgcl_fast::_blur_down, _blur_up and their gradients on the CPU.
#include "kernels/blur_pool.h"

#include "../common/layout.h"
#include "large.h"
#include "scratch.h"
#include "tensor.h"

namespace cgcl {
namespace {

Tensor blurred(Blur blur, const Tensor& from, int64_t H, int64_t W, bool channels_last, int dtype) {
  const int64_t B = from.size(0), C = from.size(1), from_h = from.size(2), from_w = from.size(3);
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
  check_dim(x, 4, "blur_down", "x");
  const int dtype = int(dtype_of(x, "blur_down", "x"));
  const int64_t H = x.size(2), W = x.size(3);
  STD_TORCH_CHECK(H >= 2 && W >= 2, "blur_down: expected x with H and W of at least 2, got (", H, ", ", W, ")");
  return blurred(Blur::down, x, (H + 1) / 2, (W + 1) / 2, is_channels_last(x), dtype);
}

Tensor blur_down_backward(Tensor grad, int64_t height, int64_t width, bool channels_last) {
  check_dim(grad, 4, "blur_down", "grad");
  const int dtype = int(dtype_of(grad, "blur_down", "grad"));
  STD_TORCH_CHECK(height >= 2 && width >= 2 && grad.size(2) == (height + 1) / 2 && grad.size(3) == (width + 1) / 2,
                  "blur_down: expected grad with H and W of half (", height, ", ", width, ") rounded up, got (",
                  grad.size(2), ", ", grad.size(3), ")");
  return blurred(Blur::down_backward, grad, height, width, channels_last, dtype);
}

Tensor blur_up(Tensor x) {
  check_dim(x, 4, "blur_up", "x");
  const int dtype = int(dtype_of(x, "blur_up", "x"));
  const int64_t H = x.size(2), W = x.size(3);
  STD_TORCH_CHECK(H >= 1 && W >= 1, "blur_up: expected x with H and W of at least 1, got (", H, ", ", W, ")");
  return blurred(Blur::up, x, 2 * H, 2 * W, is_channels_last(x), dtype);
}

Tensor blur_up_backward(Tensor grad, bool channels_last) {
  check_dim(grad, 4, "blur_up", "grad");
  const int dtype = int(dtype_of(grad, "blur_up", "grad"));
  const int64_t H = grad.size(2), W = grad.size(3);
  STD_TORCH_CHECK(H >= 2 && W >= 2 && H % 2 == 0 && W % 2 == 0, "blur_up: expected grad with even H and W, got (", H,
                  ", ", W, ")");
  return blurred(Blur::up_backward, grad, H / 2, W / 2, channels_last, dtype);
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_blur_down", TORCH_BOX(&cgcl::blur_down));
  m.impl("_blur_down_backward", TORCH_BOX(&cgcl::blur_down_backward));
  m.impl("_blur_up", TORCH_BOX(&cgcl::blur_up));
  m.impl("_blur_up_backward", TORCH_BOX(&cgcl::blur_up_backward));
}
