// cgcl_fast::_adain and _adain_backward on the CPU.
#include "kernels/adain.h"

#include <cmath>
#include <memory>
#include <tuple>

#include "../common/activation.h"
#include "../common/layout.h"
#include "norm.h"

namespace cgcl {
namespace {

std::optional<Tensor> parameter(const std::optional<Tensor>& p, const Tensor& x, const char* argument) {
  if (!p.has_value()) return std::nullopt;
  check_dim(*p, 2, "adain", argument);
  STD_TORCH_CHECK(p->size(0) == x.size(0) && p->size(1) == x.size(1), "adain: expected ", argument, " of shape (B, C) = (",
                  x.size(0), ", ", x.size(1), "), got (", p->size(0), ", ", p->size(1), ")");
  return as_float32(*p);
}

void check_like(const Tensor& t, const Tensor& x, const char* argument, Pad pad = {}) {
  check_dim(t, 4, "adain", argument);
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "adain: expected ", argument, " of x's dtype");
  for (int64_t d = 0; d < 4; ++d) {
    const int64_t size = x.size(d) + (d < 2 ? 0 : 2 * pad.size);
    STD_TORCH_CHECK(t.size(d) == size, "adain: expected ", argument,
                    pad.size == 0 ? " of x's shape" : " of x's padded shape", ", size ", size, " in dimension ", d,
                    ", got ", t.size(d));
  }
}

const float* data(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<const float*>(t->const_data_ptr()) : nullptr;
}

void forward_planes(const AdainArgs& args, int dtype) {
  parallel(args.B * args.C, args.H * args.W,
           [&](int64_t begin, int64_t end) { adain_kernels().forward[dtype](args, begin, end); });
}

void forward_pixels(const AdainArgs& args, int dtype) {
  const int64_t C = args.C, pixels = args.H * args.W;
  const Ranges ranges(args.B, pixels, C);
  // Each range writes its mean and m2; the third C floats are scratch of the kernel.
  const std::unique_ptr<float[]> parts(new float[ranges.images * ranges.count * 3 * C]);
  const std::unique_ptr<float[]> gain(new float[args.B * C]);
  ranges.each(C, [&](PixelRange range, int64_t i) {
    float* part = parts.get() + i * 3 * C;
    adain_kernels().pixel_moments[dtype](args, range, part, part + C);
  });
  parallel(args.B * C, ranges.count * 4, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const Moments moments = ranges.moments(parts.get(), C, plane);
      args.mean[plane] = float(moments.mean);
      args.rstd[plane] = float(1.0 / std::sqrt(moments.m2 / moments.count + double(args.eps)));
      gain[plane] = args.rstd[plane] * (args.scale == nullptr ? 1.0f : args.scale[plane]);
    }
  });
  ranges.each(C, [&](PixelRange range, int64_t) {
    adain_kernels().pixel_forward[dtype](args, range, gain.get() + range.b * C);
  });
}

void backward_planes(const AdainBackwardArgs& args, int dtype) {
  parallel(args.B * args.C, args.H * args.W,
           [&](int64_t begin, int64_t end) { adain_kernels().backward[dtype](args, begin, end); });
}

void backward_pixels(const AdainBackwardArgs& args, int dtype) {
  const int64_t C = args.C, planes = args.B * C, pixels = args.H * args.W;
  const Ranges ranges(args.B, pixels, C);
  const std::unique_ptr<float[]> parts(new float[ranges.images * ranges.count * 2 * C]);
  const std::unique_ptr<float[]> means(new float[planes * 3]);
  float *gain = means.get(), *mean_g = gain + planes, *mean_gx = mean_g + planes;
  ranges.each(C, [&](PixelRange range, int64_t i) {
    float* part = parts.get() + i * 2 * C;
    adain_kernels().pixel_sums[dtype](args, range, part, part + C);
  });
  parallel(planes, ranges.count * 4, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const auto [sum_g, sum_gx] = ranges.sums(parts.get(), C, plane);
      mean_g[plane] = float(sum_g / double(pixels));
      mean_gx[plane] = float(sum_gx / double(pixels));
      gain[plane] = gradient_gain(args.rstd[plane] * (args.scale == nullptr ? 1.0f : args.scale[plane]));
      if (args.dscale != nullptr) {
        args.dscale[plane] = float(sum_gx);
        args.dshift[plane] = float(sum_g);
      }
    }
  });
  ranges.each(C, [&](PixelRange range, int64_t) {
    const int64_t image = range.b * C;
    adain_kernels().pixel_backward[dtype](args, range, gain + image, mean_g + image, mean_gx + image);
  });
}

std::tuple<Tensor, Tensor, Tensor> adain(Tensor x, std::optional<Tensor> scale, std::optional<Tensor> shift, double eps,
                                         std::string activation, std::optional<Tensor> residual, int64_t pad_size,
                                         bool replicate) {
  check_dim(x, 4, "adain", "x");
  const int dtype = int(dtype_of(x, "adain", "x"));
  const std::optional<Tensor> gain = parameter(scale, x, "scale"), offset = parameter(shift, x, "shift");
  const Pad pad = pad_of(x, "adain", pad_size, replicate);
  const bool residual_padded = pad.size > 0 && residual.has_value() && !has_size_of(*residual, x);
  if (residual.has_value()) check_like(*residual, x, "residual", residual_padded ? pad : Pad{});

  const bool channels_last = is_channels_last(x);
  Tensor y = empty_map(x, {x.size(0), x.size(1), x.size(2) + 2 * pad.size, x.size(3) + 2 * pad.size}, channels_last);
  Tensor mean = new_tensor(x, {x.size(0), x.size(1)}, ScalarType::Float),
         rstd = new_tensor(x, {x.size(0), x.size(1)}, ScalarType::Float);
  const bool pixel_rows = channels_last && (!residual.has_value() || residual->stride(1) == 1);
  Map added{};
  if (residual.has_value()) added = pixel_rows ? pixels_of(*residual) : map_of(*residual);
  AdainArgs args{x.size(0),
                 x.size(1),
                 x.size(2),
                 x.size(3),
                 pixel_rows ? pixels_of(x) : map_of(x),
                 residual_padded ? inside(added, pad, dtype) : added,
                 inside(pixel_rows ? pixels_of(y) : map_of(y), pad, dtype),
                 data(gain),
                 data(offset),
                 static_cast<float*>(mean.mutable_data_ptr()),
                 static_cast<float*>(rstd.mutable_data_ptr()),
                 float(eps),
                 negative_slope_of(activation, "adain"),
                 pad,
                 residual_padded};
  if (args.B * args.C * args.H * args.W > 0) pixel_rows ? forward_pixels(args, dtype) : forward_planes(args, dtype);
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> adain_backward(Tensor grad, Tensor x, std::optional<Tensor> scale,
                                                  std::optional<Tensor> shift, Tensor mean, Tensor rstd,
                                                  std::string activation, int64_t pad_size, bool replicate) {
  check_dim(x, 4, "adain", "x");
  const int dtype = int(dtype_of(x, "adain", "x"));
  const Pad pad = pad_of(x, "adain", pad_size, replicate);
  check_like(grad, x, "grad", pad);
  const std::optional<Tensor> gain = parameter(scale, x, "scale"), offset = parameter(shift, x, "shift");
  const Tensor saved_mean = *parameter(mean, x, "mean"), saved_rstd = *parameter(rstd, x, "rstd");

  const bool channels_last = is_channels_last(x), pixel_rows = channels_last && is_channels_last(grad);
  Tensor dx = empty_map(x, channels_last);
  const bool parameters = scale.has_value() || shift.has_value();
  const int64_t B = parameters ? x.size(0) : 0, C = x.size(1);
  Tensor dscale = new_tensor(x, {B, C}, ScalarType::Float), dshift = new_tensor(x, {B, C}, ScalarType::Float);
  AdainBackwardArgs args{x.size(0),
                         x.size(1),
                         x.size(2),
                         x.size(3),
                         pixel_rows ? pixels_of(x) : map_of(x),
                         inside(pixel_rows ? pixels_of(grad) : map_of(grad), pad, dtype),
                         pixel_rows ? pixels_of(dx) : map_of(dx),
                         data(gain),
                         data(offset),
                         data(saved_mean),
                         data(saved_rstd),
                         parameters ? static_cast<float*>(dscale.mutable_data_ptr()) : nullptr,
                         parameters ? static_cast<float*>(dshift.mutable_data_ptr()) : nullptr,
                         negative_slope_of(activation, "adain"),
                         pad};
  if (args.B * args.C * args.H * args.W > 0) {
    pixel_rows ? backward_pixels(args, dtype) : backward_planes(args, dtype);
  } else if (parameters) {
    std::fill_n(args.dscale, B * C, 0.0f);
    std::fill_n(args.dshift, B * C, 0.0f);
  }
  return {dx, dscale, dshift};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_adain", TORCH_BOX(&cgcl::adain));
  m.impl("_adain_backward", TORCH_BOX(&cgcl::adain_backward));
}
