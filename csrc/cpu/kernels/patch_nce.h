// The row-wise parts of PatchNCE between matrix products: from a tile of dot products to losses and to the loss's gradient to
// those products.
#pragma once

#include <cstdint>

#include "../variant.h"

namespace cgcl {

// Negatives among the keys: none of them, all others, or those at given cyclic offsets.
enum class KeyNegatives { none, all, offsets };

// A tile of `rows` queries, the first of them query `first` of `count`.
struct NceTile {
  int64_t rows, first, count, extra_count, channels;
  KeyNegatives negatives;
  bool decoupled;              // the positive is left out of the denominator
  double inverse_temperature;
  const float* mask;           // offsets: mask[t - s + count] is 1 where key t is in the denominator of query s, else 0
  float* products;             // (rows, count) q·k, unused for KeyNegatives::none
  float* extra_products;       // (rows, extra_count) q·e
  float* own;                  // (rows) for KeyNegatives::none: receives the gradient to the positive's product
  const float *query, *key;    // (rows, channels)
};

// The denominator of a row is exp(best/τ)/inverse_sum. `best` is the largest product itself: its quotient would be rounded,
// and what is left of large logits beside their maximum is a difference of two products.
struct NceRows {
  NceTile tile;
  float *loss, *best, *inverse_sum;  // (rows)
  bool weights;                // whether the products become d loss / d product
};

// The products of the forward pass, formed again by the same call, become d(Σ grad·loss)/d product.
struct NceWeights {
  NceTile tile;
  const float *best, *inverse_sum, *grad;  // (rows)
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
  void (*weights)(const NceWeights&);
  void (*normalise)(const Normalise&);
  void (*normalise_grad)(const NormaliseGrad&);
};

CGCL_DECLARE_KERNELS(PatchNceKernels, patch_nce_kernels)

constexpr float kNormEpsilon = 1e-7f;

}  // namespace cgcl
