#include "patch_nce.h"

#include <cmath>

#include "../vec.h"

namespace cgcl {
namespace CGCL_VARIANT {
namespace {

constexpr float kNever = -3.0e38f;  // below every logit, and finite so that products with a mask stay finite

// x/τ - top in float32 without the rounding of 1/τ and of x/τ: at logits of 1/0.07 those would be the largest errors.
struct Logit {
  float high, low;
  explicit Logit(double inverse_temperature)
      : high(float(inverse_temperature)), low(float(inverse_temperature - double(high))) {}
  vf operator()(vf x, vf top) const { return x * high + (x * low - top); }
};

inline float row_max(const float* x, int64_t n, const float* mask) {
  vf best[2] = {broadcast(kNever), broadcast(kNever)};
  int64_t i = 0;
  if (mask == nullptr) {
    for (; i + 2 * kLanes <= n; i += 2 * kLanes)
      for (int j = 0; j < 2; ++j) best[j] = max(best[j], load(x + i + j * kLanes));
  } else {
    for (; i + 2 * kLanes <= n; i += 2 * kLanes)
      for (int j = 0; j < 2; ++j)
        best[j] = max(best[j], load(mask + i + j * kLanes) > 0.0f ? load(x + i + j * kLanes) : broadcast(kNever));
  }
  float value = max(max(best[0], best[1]));
  for (; i < n; ++i)
    if (mask == nullptr || mask[i] > 0.0f) value = x[i] > value ? x[i] : value;
  return value;
}

// x <- mask·exp(x/τ - top), returning the sum.
inline float row_exp(float* x, int64_t n, Logit logit, float top_value, const float* mask) {
  const vf top = broadcast(top_value);
  vf total[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    for (int j = 0; j < 2; ++j) {
      float* p = x + i + j * kLanes;
      vf e = exp(logit(load(p), top));
      if (mask != nullptr) e *= load(mask + i + j * kLanes);
      store(p, e);
      total[j] += e;
    }
  float value = sum(total[0] + total[1]);
  for (; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    vf e = exp(logit(load_part(x + i, left), top));
    if (mask != nullptr) e *= load_part(mask + i, left);
    for (int64_t j = 0; j < left; ++j) {
      x[i + j] = e[j];
      value += e[j];
    }
  }
  return value;
}

inline float dot(const float* a, const float* b, int64_t n) {
  vf s[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    for (int j = 0; j < 2; ++j) s[j] += load(a + i + j * kLanes) * load(b + i + j * kLanes);
  float value = sum(s[0] + s[1]);
  for (; i < n; ++i) value += a[i] * b[i];
  return value;
}

void rows(const NceRows& a) {
  const Logit logit(a.inverse_temperature);
  const float scale = float(a.inverse_temperature);
  const bool has_keys = a.negatives != KeyNegatives::none;
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t s = a.first + r;
    float* x = has_keys ? a.products + r * a.count : nullptr;
    float* extra = a.extra_products + r * a.extra_count;
    const float* mask = a.negatives == KeyNegatives::offsets ? a.mask + a.count - s : nullptr;
    const float product = has_keys ? x[s] : dot(a.query + r * a.channels, a.key + r * a.channels, a.channels);
    const double positive = double(product) * a.inverse_temperature;
    if (a.negatives == KeyNegatives::all && a.decoupled) x[s] = kNever;

    float best = a.decoupled ? kNever : product;
    if (has_keys) {
      const float value = row_max(x, a.count, mask);
      best = value > best ? value : best;
    }
    const float extra_best = row_max(extra, a.extra_count, nullptr);
    best = extra_best > best ? extra_best : best;
    if (best == kNever) {  // decoupled without a single negative: nothing to contrast with
      a.loss[r] = a.top[r] = a.inverse_sum[r] = 0;
      a.weight_scale[r] = a.positive_weight[r] = 0;
      for (int64_t i = 0; has_keys && i < a.count; ++i) x[i] = 0;
      continue;
    }

    const float top = best * scale;
    float total = has_keys ? row_exp(x, a.count, logit, top, mask) : 0.0f;
    total += row_exp(extra, a.extra_count, logit, top, nullptr);
    float positive_exp = 0;
    if (!has_keys && !a.decoupled) {
      positive_exp = float(std::exp(positive - double(top)));
      total += positive_exp;
    }
    a.loss[r] = float(double(top) - positive + std::log(double(total)));
    a.top[r] = top;
    a.inverse_sum[r] = 1.0f / total;
    a.weight_scale[r] = scale / total;
    a.positive_weight[r] = scale * (positive_exp / total - 1.0f);
  }
}

void query_grad(const NceQueryGrad& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    float* g = a.grad + r * a.channels;
    const float* k = a.key + r * a.channels;
    const float weight = a.weight_scale[r], positive = a.positive_weight[r];
    if (a.extra_grad != nullptr)
      for (int64_t i = 0; i < a.channels; ++i) g[i] += a.extra_grad[r * a.channels + i];
    int64_t i = 0;
    for (; i + kLanes <= a.channels; i += kLanes) store(g + i, load(g + i) * weight + load(k + i) * positive);
    for (; i < a.channels; ++i) g[i] = g[i] * weight + k[i] * positive;
  }
}

void columns(const NceColumns& a) {
  const Logit logit(a.inverse_temperature);
  const float scale = float(a.inverse_temperature);
  for (int64_t r = 0; r < a.rows; ++r) {
    const int64_t t = a.first + r;
    float* x = a.products + r * a.count;
    const bool in_keys = !a.is_extra;
    const float* mask = in_keys && a.negatives == KeyNegatives::offsets ? a.mask + a.count - t : nullptr;
    const float product = in_keys ? x[t] : 0.0f;
    if (in_keys && a.negatives == KeyNegatives::none) {
      for (int64_t i = 0; i < a.count; ++i) x[i] = 0;
    } else {
      for (int64_t i = 0; i < a.count; i += kLanes) {
        const int64_t left = a.count - i < kLanes ? a.count - i : kLanes;
        const bool whole = left == kLanes;
        const auto take = [&](const float* p) { return whole ? load(p + i) : load_part(p + i, left); };
        // Products outside a query's denominator may exceed its top: they are masked, and must not overflow before.
        const vf exponent = min(logit(take(x), take(a.top)), broadcast(80.0f));
        vf w = exp(exponent) * (take(a.inverse_sum) * take(a.grad) * scale);
        if (mask != nullptr) w *= take(mask);
        if (whole) {
          store(x + i, w);
        } else {
          store_part(x + i, w, left);
        }
      }
    }
    if (in_keys) {  // the positive: its softmax weight, if the denominator has it, less one
      const double logit_value = double(product) * a.inverse_temperature - double(a.top[t]);
      const float softmax = a.decoupled ? 0.0f : float(std::exp(logit_value)) * a.inverse_sum[t];
      x[t] = a.inverse_sum[t] > 0 ? (softmax - 1.0f) * a.grad[t] * scale : 0.0f;
    }
  }
}

void normalise(const Normalise& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* v = a.input + r * a.channels;
    float* y = a.output + r * a.channels;
    const float norm = std::sqrt(dot(v, v, a.channels)), scale = 1.0f / (norm + kNormEpsilon);
    if (a.norm != nullptr) a.norm[r] = norm;
    int64_t i = 0;
    for (; i + kLanes <= a.channels; i += kLanes) store(y + i, load(v + i) * scale);
    for (; i < a.channels; ++i) y[i] = v[i] * scale;
  }
}

void normalise_grad(const NormaliseGrad& a) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float* y = a.normalised + r * a.channels;
    float* g = a.grad + r * a.channels;
    const float norm = a.norm[r], scale = 1.0f / (norm + kNormEpsilon);
    const float along = norm > 0 ? dot(y, g, a.channels) * (norm + kNormEpsilon) / norm : 0.0f;
    int64_t i = 0;
    for (; i + kLanes <= a.channels; i += kLanes) store(g + i, (load(g + i) - load(y + i) * along) * scale);
    for (; i < a.channels; ++i) g[i] = (g[i] - y[i] * along) * scale;
  }
}

}  // namespace

extern const PatchNceKernels patch_nce_kernels_table = {rows, query_grad, columns, normalise, normalise_grad};

}  // namespace CGCL_VARIANT
}  // namespace cgcl
