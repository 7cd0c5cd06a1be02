// y = act(scale·(x - mean)/sqrt(var + eps) + shift) [+ residual], statistics over H, W of each (b, c) plane.
#pragma once

#include <cstdint>

#include "../variant.h"
#include "map.h"

namespace cgcl {

struct AdainArgs {
  int64_t B, C, H, W;
  Map x, residual, y;            // residual.data may be null
  const float *scale, *shift;    // (B, C) contiguous, or null for 1 and 0
  float *mean, *rstd;            // (B, C) contiguous
  float eps, negative_slope;     // slope of the activation below zero: 1 none, 0 relu, 0.2 leaky_relu
};

struct AdainBackwardArgs {
  int64_t B, C, H, W;
  Map x, grad, dx;
  const float *scale, *shift, *mean, *rstd;
  float *dscale, *dshift;        // (B, C) contiguous, or both null
  float negative_slope;
};

// Ranges count planes (b·C + c), or for the channels_last entries blocks of kAdainBlock channels of an image.
constexpr int64_t kAdainBlock = 32;

struct AdainKernels {
  void (*forward[2])(const AdainArgs&, int64_t begin, int64_t end);
  void (*forward_channels_last[2])(const AdainArgs&, int64_t begin, int64_t end);
  void (*backward[2])(const AdainBackwardArgs&, int64_t begin, int64_t end);
  void (*backward_channels_last[2])(const AdainBackwardArgs&, int64_t begin, int64_t end);
};

CGCL_DECLARE_KERNELS(AdainKernels, adain_kernels)

}  // namespace cgcl
