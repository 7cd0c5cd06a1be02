// cgcl_fast::_reflect_pad and _reflect_pad_backward in CUDA C++.
#include "pad.cuh"

namespace cgcl {
namespace {

Tensor reflect_pad(Tensor x, int64_t size) {
  check_dim(x, 4, "reflect_pad", "x");
  const OnDevice device(x, "reflect_pad", "x");
  const Pad pad = pad_of(x, "reflect_pad", size, false);
  Tensor y = x;
  with_element(x, "reflect_pad", "x", [&](auto element) { y = padded<decltype(element)>(device, x, pad); });
  return y;
}

Tensor reflect_pad_backward(Tensor grad, int64_t size, bool channels_last) {
  check_dim(grad, 4, "reflect_pad", "grad");
  const OnDevice device(grad, "reflect_pad", "grad");
  const int64_t least = std::min(grad.size(2), grad.size(3));
  STD_TORCH_CHECK(size >= 0 && least > 3 * size,
                  "reflect_pad: expected grad with more than 3·size positions per side, got ", grad.size(2), "x",
                  grad.size(3), " for size ", size);
  Tensor dx = grad;
  with_element(grad, "reflect_pad", "grad",
               [&](auto element) { dx = folded<decltype(element)>(device, grad, Pad{size}, channels_last); });
  return dx;
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CUDA, m) {
  m.impl("_reflect_pad", TORCH_BOX(&cgcl::reflect_pad));
  m.impl("_reflect_pad_backward", TORCH_BOX(&cgcl::reflect_pad_backward));
}
