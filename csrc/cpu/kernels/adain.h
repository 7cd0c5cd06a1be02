// y = act(scale·(x - mean)/sqrt(var + eps) + shift) [+ residual], statistics over H, W of each (b, c) plane. With padding,
// the pointers of y, of a padded residual and of grad refer to position (0, 0) of the unpadded map, inside the padding.
#pragma once

#include <cstdint>

#include "../../common/pad.h"
#include "../../common/strided_map.h"
#include "../dispatch.h"

namespace cgcl {

struct AdainArgs {
  int64_t B, C, H, W;
  Map x, residual, y;            // residual.data may be null
  const float *scale, *shift;    // (B, C) contiguous, or null for 1 and 0
  float *mean, *rstd;            // (B, C) contiguous
  float eps, negative_slope;     // slope of the activation below zero: 1 none, 0 relu, 0.2 leaky_relu
  Pad pad;                       // of y, a map of its own without gaps
  bool residual_padded;          // like y: it is added after the padding
};

struct AdainBackwardArgs {
  int64_t B, C, H, W;
  Map x, grad, dx;
  const float *scale, *shift, *mean, *rstd;
  float *dscale, *dshift;        // (B, C) contiguous, or both null
  float negative_slope;
  Pad pad;                       // of grad
};

// The pixels [first, last) of image b of a channels_last map, with all their channels. Each pass over an image writes two
// sums per channel and range; the caller merges the ranges in order, in float64.
struct PixelRange {
  int64_t b, first, last;
};

struct AdainKernels {
  void (*forward[2])(const AdainArgs&, int64_t begin, int64_t end);  // planes b·C + c
  void (*backward[2])(const AdainBackwardArgs&, int64_t begin, int64_t end);
  // mean and centred sum of squares of the range: (C) each; m2 has room for another C
  void (*pixel_moments[2])(const AdainArgs&, PixelRange, float* mean, float* m2);
  // gain (C) is scale·rstd of the image
  void (*pixel_forward[2])(const AdainArgs&, PixelRange, const float* gain);
  // Σg' and Σg'·x̂ of the range: (C) each
  void (*pixel_sums[2])(const AdainBackwardArgs&, PixelRange, float* sum_g, float* sum_gx);
  // means of g' and g'·x̂ over the image, and gain: (C) each
  void (*pixel_backward[2])(const AdainBackwardArgs&, PixelRange, const float* gain, const float* mean_g,
                            const float* mean_gx);
  // the same where the statistics are those of the image: rstd, and means of scale·g' and scale·g'·x̂ over its channels too
  void (*pixel_backward_of_image[2])(const AdainBackwardArgs&, PixelRange, float rstd, float mean_g, float mean_gx);
};

CGCL_DECLARE_KERNELS(AdainKernels, adain_kernels)

}  // namespace cgcl
