#include "patch_nce.h"

#include <cmath>

#include "../vec.h"

namespace cgcl {
namespace CGCL_VARIANT {
namespace {

constexpr float kInfinity = __builtin_inff();

// The largest of n numbers, ignoring NaN; -inf if there is none.
inline float row_max(const float* x, int64_t n, const float* mask) {
  vf largest[2] = {broadcast(-kInfinity), broadcast(-kInfinity)};
  int64_t i = 0;
  if (mask == nullptr) {
    for (; i + 2 * kLanes <= n; i += 2 * kLanes)
      for (int j = 0; j < 2; ++j) largest[j] = max(load(x + i + j * kLanes), largest[j]);
  } else {
    for (; i + 2 * kLanes <= n; i += 2 * kLanes)
      for (int j = 0; j < 2; ++j)
        largest[j] = max(load(mask + i + j * kLanes) > 0.0f ? load(x + i + j * kLanes) : broadcast(-kInfinity), largest[j]);
  }
  float value = max(max(largest[0], largest[1]));
  for (; i < n; ++i)
    if (mask == nullptr || mask[i] > 0.0f) value = x[i] > value ? x[i] : value;
  return value;
}

inline bool has_nan(const float* x, int64_t n, const float* mask) {
  for (int64_t i = 0; i < n; ++i)
    if ((mask == nullptr || mask[i] > 0.0f) && x[i] != x[i]) return true;
  return false;
}

// x <- f(x) where the mask is set, 0 elsewhere; returns the sum. Selects instead of multiplying: 0·NaN would be NaN.
template <class F>
inline float map_row(float* x, int64_t n, const float* mask, const F& f) {
  vf total[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    for (int j = 0; j < 2; ++j) {
      float* p = x + i + j * kLanes;
      vf y = f(load(p));
      if (mask != nullptr) y = load(mask + i + j * kLanes) > 0.0f ? y : vf{};
      store(p, y);
      total[j] += y;
    }
  float value = sum(total[0] + total[1]);
  for (; i < n; i += kLanes) {
    const int64_t left = n - i < kLanes ? n - i : kLanes;
    vf y = f(load_part(x + i, left));
    if (mask != nullptr) y = load_part(mask + i, left) > 0.0f ? y : vf{};
    for (int64_t j = 0; j < left; ++j) {
      x[i + j] = y[j];
      value += y[j];
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

// One query of a tile.
struct Row {
  float *keys, *extra;         // products with all keys, or null, and with the extra negatives
  const float* mask;
  int64_t own;                 // which key is the positive
  float positive;              // the product with it

  Row(const NceTile& a, int64_t r)
      : keys(a.negatives == KeyNegatives::none ? nullptr : a.products + r * a.count),
        extra(a.extra_products + r * a.extra_count),
        mask(a.negatives == KeyNegatives::offsets ? a.mask + a.count - (a.first + r) : nullptr), own(a.first + r),
        positive(keys != nullptr ? keys[own] : dot(a.query + r * a.channels, a.key + r * a.channels, a.channels)) {}

  template <class F>
  float map(const NceTile& a, const F& f) const {
    return (keys == nullptr ? 0.0f : map_row(keys, a.count, mask, f)) + map_row(extra, a.extra_count, nullptr, f);
  }

  // Turns the positive's softmax weight into the gradient to its product. `one` is what a weight of 1 is scaled to.
  void finish(const NceTile& a, int64_t r, float own_weight, float one) const {
    if (keys == nullptr) {
      a.own[r] = (a.decoupled ? 0.0f : own_weight) - one;
    } else {
      keys[own] = (a.decoupled ? 0.0f : keys[own]) - one;
    }
  }
};

// NaN and infinite products behave as in torch.logsumexp and its gradient: a NaN makes the row NaN; if the maximum is
// infinite so is the logarithm, and the weights of the products that equal it are NaN (∞ - ∞).
void rows(const NceRows& args) {
  const NceTile& a = args.tile;
  const float scale = float(a.inverse_temperature);
  for (int64_t r = 0; r < a.rows; ++r) {
    const Row row(a, r);
    if (row.keys != nullptr && a.decoupled && a.negatives == KeyNegatives::all) row.keys[row.own] = -kInfinity;

    float m = a.decoupled ? -kInfinity : row.positive;
    if (row.keys != nullptr) {
      const float value = row_max(row.keys, a.count, row.mask);
      m = value > m ? value : m;
    }
    const float extra_m = row_max(row.extra, a.extra_count, nullptr);
    m = extra_m > m ? extra_m : m;
    const bool finite = m - m == 0;
    const bool nan = !finite && (m != m || (row.keys != nullptr && has_nan(row.keys, a.count, row.mask)) ||
                                 has_nan(row.extra, a.extra_count, nullptr));

    float l = row.map(a, [=](vf x) { return exp((x - m) * scale); });
    float own_weight = 0;
    if (row.keys == nullptr && !a.decoupled) {
      own_weight = __builtin_expf((row.positive - m) * scale);
      l += own_weight;
    }
    if (!finite) l = nan ? m - m : 1;  // not what ∞ - ∞ has made of it
    args.loss[r] = float(std::log(double(l)) + (double(m) - double(row.positive)) * a.inverse_temperature);
    args.m[r] = m;
    args.inverse_l[r] = 1.0f / l;
    if (!args.weights) continue;
    const float share = scale / l;
    row.map(a, [=](vf weight) { return weight * share; });
    row.finish(a, r, own_weight * share, scale);
  }
}

void weights(const NceWeights& args) {
  const NceTile& a = args.tile;
  const float scale = float(a.inverse_temperature);
  for (int64_t r = 0; r < a.rows; ++r) {
    const Row row(a, r);
    const float m = args.m[r], one = args.grad[r] * scale, share = args.inverse_l[r] * one;
    row.map(a, [=](vf x) { return exp((x - m) * scale) * share; });
    row.finish(a, r, __builtin_expf((row.positive - m) * scale) * share, one);
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
    const float along = norm > 0 ? dot(y, g, a.channels) * (1.0f + kNormEpsilon / norm) : 0.0f;  // the norm may be ∞
    int64_t i = 0;
    for (; i + kLanes <= a.channels; i += kLanes) store(g + i, (load(g + i) - load(y + i) * along) * scale);
    for (; i < a.channels; ++i) g[i] = (g[i] - y[i] * along) * scale;
  }
}

}  // namespace

extern const PatchNceKernels patch_nce_kernels_table = {rows, weights, normalise, normalise_grad};

}  // namespace CGCL_VARIANT
}  // namespace cgcl
