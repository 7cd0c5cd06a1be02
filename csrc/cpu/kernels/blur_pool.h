// Halving and doubling of maps with binomial filters, and their gradients; see ../../common/blur.h.
#pragma once

#include <cstdint>

#include "../../common/blur.h"
#include "../../common/strided_map.h"
#include "../dispatch.h"

namespace cgcl {

struct BlurArgs {
  int64_t C, H, W;         // of the result
  int64_t from_h, from_w;  // of the source
  Map from, to;
};

constexpr int64_t kBlurSpan = 18, kBlurChannels = 256;  // of the source at a time, if channels_last

// Indexed by Blur and Dtype.
struct BlurKernels {
  // Rows (b·C + c)·H + h of the result from `begin` to `end`. scratch: from_w + W + 2 floats.
  void (*planes[4][2])(const BlurArgs&, int64_t begin, int64_t end, float* scratch);
  // channels_last: rows b·H + h of the result with all their channels. Blur::up instead counts the rows between source rows,
  // b·(from_h + 1) + h. scratch: kBlurSpan · kBlurChannels floats.
  void (*pixels[4][2])(const BlurArgs&, int64_t begin, int64_t end, float* scratch);
};

CGCL_DECLARE_KERNELS(BlurKernels, blur_kernels)

}  // namespace cgcl
