// The row-wise parts of PatchNCE between two matrix products: from a tile of dot products to losses, softmax weights and
// the gradient of the query; and from a tile of transposed dot products to the weights that make the gradient of the keys.
#pragma once

#include <cstdint>

#include "../variant.h"

namespace cgcl {

// Negatives among the keys: none of them, all others, or those at given cyclic offsets.
enum class KeyNegatives { none, all, offsets };

// A tile of `rows` queries, the first of them query `first` of `count`.
struct NceRows {
  int64_t rows, first, count, extra_count, channels;
  KeyNegatives negatives;
  bool decoupled;              // the positive is left out of the denominator
  double inverse_temperature;
  const float* mask;           // offsets: mask[t - s + count] is 1 where key t is in the denominator of query s, else 0
  float* products;             // (rows, count) q·k, unused for KeyNegatives::none; becomes exp weights
  float* extra_products;       // (rows, extra_count) q·e; becomes exp weights
  const float *query, *key;    // (rows, channels): of this tile
  float *loss, *top, *inverse_sum;  // (rows): the denominator is exp(top)/inverse_sum
  float *weight_scale;         // (rows): what the exp weights are multiplied with in the gradient
  float *positive_weight;      // (rows): what the positive key is multiplied with in the gradient
};

// grad row = weight_scale·(grad row + extra_grad row) + positive_weight·key row.
struct NceQueryGrad {
  int64_t rows, channels;
  const float *weight_scale, *positive_weight, *key;
  const float* extra_grad;     // what the extra negatives add, or null
  float* grad;
};

// A tile of `rows` keys (or extra negatives), the first of them key `first`: products (rows, count) k·q become
// d(Σ grad_s·loss_s)/d(k·q).
struct NceColumns {
  int64_t rows, first, count;
  bool is_extra;
  KeyNegatives negatives;
  bool decoupled;
  double inverse_temperature;
  const float* mask;           // offsets, reversed: mask[s - t + count]
  const float *top, *inverse_sum, *grad;  // (count)
  float* products;
};

struct Normalise {
  int64_t rows, channels;
  const float* input;
  float *output, *norm;        // norm (rows) may be null
};

// In place: the gradient with respect to v/(‖v‖ + 1e-7) becomes that with respect to v.
struct NormaliseGrad {
  int64_t rows, channels;
  const float *normalised, *norm;
  float* grad;
};

struct PatchNceKernels {
  void (*rows)(const NceRows&);
  void (*query_grad)(const NceQueryGrad&);
  void (*columns)(const NceColumns&);
  void (*normalise)(const Normalise&);
  void (*normalise_grad)(const NormaliseGrad&);
};

CGCL_DECLARE_KERNELS(PatchNceKernels, patch_nce_kernels)

constexpr float kNormEpsilon = 1e-7f;

}  // namespace cgcl
