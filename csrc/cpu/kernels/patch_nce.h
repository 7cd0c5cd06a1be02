// The row-wise parts of PatchNCE between the matrix products: from a tile of dot products to the losses, and to the gradient
// of the losses with respect to those products.
#pragma once

#include <cstdint>

#include "../dispatch.h"

namespace cgcl {

// Which other keys are negatives: none, all, or those at given cyclic offsets.
enum class KeyNegatives { none, all, offsets };

// A tile of `rows` queries, starting with query `first` of `count`.
struct NceTile {
  int64_t rows, first, count, extra_count, channels;
  KeyNegatives negatives;
  bool decoupled;  // the positive is left out of the denominator
  double inverse_temperature;
  const float* mask;  // offsets: mask[t - s + count] is 1 where key t is in the denominator of query s, else 0
  float* products;  // (rows, count) q·k, unused for KeyNegatives::none
  float* extra_products;  // (rows, extra_count) q·e
  float* own;  // (rows) for KeyNegatives::none: receives the gradient to the positive's product
  const float *query, *key;  // (rows, channels)
};

// Online softmax of a row: its maximum product m and l = Σ exp((product - m)/τ), saved as 1/l. m is not divided by τ before it
// is saved: the quotient would be rounded, while a difference of two large products keeps the digits that matter.
struct NceRows {
  NceTile tile;
  float *loss, *m, *inverse_l;  // (rows)
  bool weights;  // whether the products become d loss / d product
};

// The products of the forward pass, recomputed by the same call, become d(Σ grad·loss)/d product.
struct NceWeights {
  NceTile tile;
  const float *m, *inverse_l, *grad;  // (rows)
};

struct Normalise {
  int64_t rows, channels;
  const float* input;
  float *output, *norm;  // norm (rows) may be null
};

// In place: turns the gradient to v/(‖v‖ + 1e-7) into the gradient to v.
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
