// Result sizes of the blurs and their gradients, and their argument checks.
#pragma once

#include "tensor.h"

namespace cgcl {

struct MapSize {
  int64_t H, W;
};

inline MapSize blur_down_size(const Tensor& x) {
  check_dim(x, 4, "blur_down", "x");
  const int64_t H = x.size(2), W = x.size(3);
  STD_TORCH_CHECK(H >= 2 && W >= 2, "blur_down: expected x with H and W of at least 2, got (", H, ", ", W, ")");
  return {(H + 1) / 2, (W + 1) / 2};
}

inline MapSize blur_down_backward_size(const Tensor& grad, int64_t height, int64_t width) {
  check_dim(grad, 4, "blur_down", "grad");
  STD_TORCH_CHECK(height >= 2 && width >= 2 && grad.size(2) == (height + 1) / 2 && grad.size(3) == (width + 1) / 2,
                  "blur_down: expected grad with H and W of half (", height, ", ", width, ") rounded up, got (",
                  grad.size(2), ", ", grad.size(3), ")");
  return {height, width};
}

inline MapSize blur_up_size(const Tensor& x) {
  check_dim(x, 4, "blur_up", "x");
  const int64_t H = x.size(2), W = x.size(3);
  STD_TORCH_CHECK(H >= 1 && W >= 1, "blur_up: expected x with H and W of at least 1, got (", H, ", ", W, ")");
  return {2 * H, 2 * W};
}

inline MapSize blur_up_backward_size(const Tensor& grad) {
  check_dim(grad, 4, "blur_up", "grad");
  const int64_t H = grad.size(2), W = grad.size(3);
  STD_TORCH_CHECK(H >= 2 && W >= 2 && H % 2 == 0 && W % 2 == 0, "blur_up: expected grad with even H and W, got (", H, ", ",
                  W, ")");
  return {H / 2, W / 2};
}

}  // namespace cgcl
