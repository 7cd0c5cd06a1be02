// cgcl_fast::_adain and _adain_backward on the CPU.
#include "kernels/adain.h"

#include <string>
#include <tuple>

#include "map.h"
#include "tensor.h"

namespace cgcl {
namespace {

float negative_slope_of(const std::string& activation) {
  if (activation == "none") return 1.0f;
  if (activation == "relu") return 0.0f;
  STD_TORCH_CHECK(activation == "leaky_relu", "adain: expected activation 'none', 'relu' or 'leaky_relu', got '",
                  activation, "'");
  return 0.2f;
}

std::optional<Tensor> parameter(const std::optional<Tensor>& p, const Tensor& x, const char* argument) {
  if (!p.has_value()) return std::nullopt;
  check_dim(*p, 2, "adain", argument);
  STD_TORCH_CHECK(p->size(0) == x.size(0) && p->size(1) == x.size(1), "adain: expected ", argument,
                  " of shape (B, C) = (", x.size(0), ", ", x.size(1), "), got (", p->size(0), ", ", p->size(1), ")");
  return as_float32(*p);
}

void check_like(const Tensor& t, const Tensor& x, const char* argument) {
  check_dim(t, 4, "adain", argument);
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "adain: expected ", argument, " of x's dtype");
  for (int64_t d = 0; d < 4; ++d)
    STD_TORCH_CHECK(t.size(d) == x.size(d), "adain: expected ", argument, " of x's shape, size ", x.size(d),
                    " in dimension ", d, ", got ", t.size(d));
}

const float* data(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<const float*>(t->const_data_ptr()) : nullptr;
}

template <class Args>
void run(const Args& args, void (*planes)(const Args&, int64_t, int64_t), void (*blocks)(const Args&, int64_t, int64_t),
         bool channels_last) {
  const int64_t pixels = args.H * args.W;
  if (channels_last) {
    const int64_t count = args.B * ((args.C + kAdainBlock - 1) / kAdainBlock);
    parallel(count, pixels * kAdainBlock, [&](int64_t begin, int64_t end) { blocks(args, begin, end); });
  } else {
    parallel(args.B * args.C, pixels, [&](int64_t begin, int64_t end) { planes(args, begin, end); });
  }
}

std::tuple<Tensor, Tensor, Tensor> adain(Tensor x, std::optional<Tensor> scale, std::optional<Tensor> shift, double eps,
                                         std::string activation, std::optional<Tensor> residual) {
  check_dim(x, 4, "adain", "x");
  const int dtype = int(dtype_of(x, "adain", "x"));
  const std::optional<Tensor> gain = parameter(scale, x, "scale"), offset = parameter(shift, x, "shift");
  if (residual.has_value()) check_like(*residual, x, "residual");

  const bool channels_last = is_channels_last(x);
  Tensor y = empty_map(x, channels_last);
  Tensor mean = new_tensor(x, {x.size(0), x.size(1)}, ScalarType::Float), rstd = torch::stable::empty_like(mean);
  const bool blocks = channels_last && (!residual.has_value() || is_channels_last(*residual));
  AdainArgs args{x.size(0), x.size(1), x.size(2), x.size(3),
                 blocks ? pixels_of(x) : map_of(x),
                 !residual.has_value() ? Map{} : blocks ? pixels_of(*residual) : map_of(*residual),
                 blocks ? pixels_of(y) : map_of(y),
                 data(gain), data(offset),
                 static_cast<float*>(mean.mutable_data_ptr()), static_cast<float*>(rstd.mutable_data_ptr()),
                 float(eps), negative_slope_of(activation)};
  if (args.H * args.W > 0) run(args, adain_kernels().forward[dtype], adain_kernels().forward_channels_last[dtype], blocks);
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> adain_backward(Tensor grad, Tensor x, std::optional<Tensor> scale,
                                                  std::optional<Tensor> shift, Tensor mean, Tensor rstd,
                                                  std::string activation) {
  check_dim(x, 4, "adain", "x");
  const int dtype = int(dtype_of(x, "adain", "x"));
  check_like(grad, x, "grad");
  const std::optional<Tensor> gain = parameter(scale, x, "scale"), offset = parameter(shift, x, "shift");
  const Tensor saved_mean = *parameter(mean, x, "mean"), saved_rstd = *parameter(rstd, x, "rstd");

  const bool channels_last = is_channels_last(x), blocks = channels_last && is_channels_last(grad);
  Tensor dx = empty_map(x, channels_last);
  const bool parameters = scale.has_value() || shift.has_value();
  const int64_t B = parameters ? x.size(0) : 0, C = x.size(1);
  Tensor dscale = torch::stable::new_zeros(x, {B, C}, ScalarType::Float);
  Tensor dshift = torch::stable::new_zeros(x, {B, C}, ScalarType::Float);
  AdainBackwardArgs args{x.size(0), x.size(1), x.size(2), x.size(3),
                         blocks ? pixels_of(x) : map_of(x), blocks ? pixels_of(grad) : map_of(grad),
                         blocks ? pixels_of(dx) : map_of(dx),
                         data(gain), data(offset), data(saved_mean), data(saved_rstd),
                         parameters ? static_cast<float*>(dscale.mutable_data_ptr()) : nullptr,
                         parameters ? static_cast<float*>(dshift.mutable_data_ptr()) : nullptr,
                         negative_slope_of(activation)};
  if (args.H * args.W > 0)
    run(args, adain_kernels().backward[dtype], adain_kernels().backward_channels_last[dtype], blocks);
  return {dx, dscale, dshift};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_adain", TORCH_BOX(&cgcl::adain));
  m.impl("_adain_backward", TORCH_BOX(&cgcl::adain_backward));
}
