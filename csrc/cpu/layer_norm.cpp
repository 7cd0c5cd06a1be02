// cgcl_fast::_layer_norm and _layer_norm_backward on the CPU, of channels_last maps: the passes over the pixels are those
// of adain, whose sums are merged over an image's channels too.
#include <cmath>
#include <memory>
#include <tuple>

#include "../common/activation.h"
#include "../common/layout.h"
#include "norm.h"

namespace cgcl {
namespace {

const float* parameter(const Tensor& p) { return static_cast<const float*>(p.const_data_ptr()); }

Tensor checked_parameter(const Tensor& p, int64_t size, const char* argument) {
  check_dim(p, 1, "layer_norm", argument);
  STD_TORCH_CHECK(p.size(0) == size, "layer_norm: expected ", argument, " of ", size, " elements, got ", p.size(0));
  return as_float32(p);
}

// value(b, c) as (B, C), which the passes over pixels read.
template <class F>
std::unique_ptr<float[]> of_planes(int64_t B, int64_t C, const F& value) {
  std::unique_ptr<float[]> planes(new float[B * C]);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t c = 0; c < C; ++c) planes[b * C + c] = value(b, c);
  return planes;
}

std::tuple<Tensor, Tensor, Tensor> layer_norm(Tensor x, Tensor weight, Tensor bias, double eps, std::string activation,
                                              int64_t pad_size, bool replicate) {
  check_dim(x, 4, "layer_norm", "x");
  const int dtype = int(dtype_of(x, "layer_norm", "x"));
  STD_TORCH_CHECK(is_channels_last(x), "layer_norm: expected a channels_last map");
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3);
  const Tensor gain = checked_parameter(weight, C, "weight"), offset = checked_parameter(bias, C, "bias");
  const float slope = negative_slope_of(activation, "layer_norm");
  const Pad pad = pad_of(x, "layer_norm", pad_size, replicate);

  Tensor y = empty_map(x, {B, C, H + 2 * pad.size, W + 2 * pad.size}, true);
  Tensor mean = new_tensor(x, {B}, ScalarType::Float), rstd = new_tensor(x, {B}, ScalarType::Float);
  if (B == 0) return {y, mean, rstd};
  AdainArgs args{};
  args.B = B, args.C = C, args.H = H, args.W = W;
  args.x = pixels_of(x);
  args.y = inside(pixels_of(y), pad, dtype);
  args.negative_slope = slope;
  args.pad = pad;
  const Ranges ranges(B, H * W, C);
  const std::unique_ptr<float[]> parts(new float[B * ranges.count * 3 * C]);
  ranges.each(C, [&](PixelRange range, int64_t i) {
    float* part = parts.get() + i * 3 * C;
    adain_kernels().pixel_moments[dtype](args, range, part, part + C);
  });
  const std::unique_ptr<Moments[]> planes(new Moments[B * C]);
  parallel(B * C, ranges.count * 4, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) planes[plane] = ranges.moments(parts.get(), C, plane);
  });
  float *means = static_cast<float*>(mean.mutable_data_ptr()), *rstds = static_cast<float*>(rstd.mutable_data_ptr());
  for (int64_t b = 0; b < B; ++b) {
    Moments image;
    for (int64_t c = 0; c < C; ++c) image.add(double(H * W), planes[b * C + c].mean, planes[b * C + c].m2);
    means[b] = float(image.mean);
    rstds[b] = float(1.0 / std::sqrt(image.m2 / image.count + double(float(eps))));
  }
  const float *w = parameter(gain), *t = parameter(offset);
  const auto mean_of = of_planes(B, C, [=](int64_t b, int64_t) { return means[b]; });
  const auto shift_of = of_planes(B, C, [=](int64_t, int64_t c) { return t[c]; });
  const auto gain_of = of_planes(B, C, [=](int64_t b, int64_t c) { return rstds[b] * w[c]; });
  args.mean = mean_of.get();
  args.shift = shift_of.get();
  ranges.each(C, [&](PixelRange range, int64_t) {
    adain_kernels().pixel_forward[dtype](args, range, gain_of.get() + range.b * C);
  });
  return {y, mean, rstd};
}

// The gradient in a channels_last map of its own, if it is in another format.
Tensor as_pixels(const Tensor& grad) {
  if (is_channels_last(grad)) return grad;
  Tensor copy = empty_map(grad, true);
  return torch::stable::copy_(copy, grad);
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean,
                                                       Tensor rstd, std::string activation, int64_t pad_size,
                                                       bool replicate) {
  check_dim(x, 4, "layer_norm", "x");
  check_dim(grad, 4, "layer_norm", "grad");
  const int dtype = int(dtype_of(x, "layer_norm", "x"));
  STD_TORCH_CHECK(is_channels_last(x), "layer_norm: expected a channels_last map");
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3);
  const Pad pad = pad_of(x, "layer_norm", pad_size, replicate);
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.size(0) == B && grad.size(1) == C &&
                      grad.size(2) == H + 2 * pad.size && grad.size(3) == W + 2 * pad.size,
                  "layer_norm: expected grad of x's padded shape and dtype");
  const Tensor gain = checked_parameter(weight, C, "weight"), offset = checked_parameter(bias, C, "bias");
  const Tensor means = checked_parameter(mean, B, "mean"), rstds = checked_parameter(rstd, B, "rstd");
  const float slope = negative_slope_of(activation, "layer_norm");

  Tensor dx = empty_map(x, true);
  Tensor dweight = new_tensor(x, {C}, ScalarType::Float), dbias = new_tensor(x, {C}, ScalarType::Float);
  float *to_weight = static_cast<float*>(dweight.mutable_data_ptr()),
        *to_bias = static_cast<float*>(dbias.mutable_data_ptr());
  std::fill_n(to_weight, C, 0.0f);
  std::fill_n(to_bias, C, 0.0f);
  if (B == 0) return {dx, dweight, dbias};
  const Tensor upstream = as_pixels(grad);
  const float *w = parameter(gain), *t = parameter(offset), *mu = parameter(means), *r = parameter(rstds);
  const auto mean_of = of_planes(B, C, [=](int64_t b, int64_t) { return mu[b]; });
  const auto rstd_of = of_planes(B, C, [=](int64_t b, int64_t) { return r[b]; });
  const auto scale_of = of_planes(B, C, [=](int64_t, int64_t c) { return w[c]; });
  const auto shift_of = of_planes(B, C, [=](int64_t, int64_t c) { return t[c]; });
  const AdainBackwardArgs args{B,
                               C,
                               H,
                               W,
                               pixels_of(x),
                               inside(pixels_of(upstream), pad, dtype),
                               pixels_of(dx),
                               scale_of.get(),
                               shift_of.get(),
                               mean_of.get(),
                               rstd_of.get(),
                               nullptr,
                               nullptr,
                               slope,
                               pad};
  const Ranges ranges(B, H * W, C);
  const std::unique_ptr<float[]> parts(new float[B * ranges.count * 2 * C]);
  ranges.each(C, [&](PixelRange range, int64_t i) {
    float* part = parts.get() + i * 2 * C;
    adain_kernels().pixel_sums[dtype](args, range, part, part + C);
  });
  const std::unique_ptr<std::pair<double, double>[]> planes(new std::pair<double, double>[B * C]);
  parallel(B * C, ranges.count * 4, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) planes[plane] = ranges.sums(parts.get(), C, plane);
  });
  for (int64_t c = 0; c < C; ++c) {
    double sum_g = 0, sum_gx = 0;
    for (int64_t b = 0; b < B; ++b) {
      sum_g += planes[b * C + c].first;
      sum_gx += planes[b * C + c].second;
    }
    to_weight[c] = float(sum_gx);
    to_bias[c] = float(sum_g);
  }
  const std::unique_ptr<float[]> mean_g(new float[B]), mean_gx(new float[B]);
  for (int64_t b = 0; b < B; ++b) {
    double sum_g = 0, sum_gx = 0;
    for (int64_t c = 0; c < C; ++c) {
      sum_g += double(w[c]) * planes[b * C + c].first;
      sum_gx += double(w[c]) * planes[b * C + c].second;
    }
    mean_g[b] = gradient_gain(float(sum_g / double(C * H * W)));
    mean_gx[b] = gradient_gain(float(sum_gx / double(C * H * W)));
  }
  ranges.each(C, [&](PixelRange range, int64_t) {
    const float factor = gradient_gain(r[range.b]);
    adain_kernels().pixel_backward_of_image[dtype](args, range, factor, mean_g[range.b], mean_gx[range.b]);
  });
  return {dx, dweight, dbias};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_layer_norm", TORCH_BOX(&cgcl::layer_norm));
  m.impl("_layer_norm_backward", TORCH_BOX(&cgcl::layer_norm_backward));
}
