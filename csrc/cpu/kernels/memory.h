// Class-aware memory (MGUIT): read (Eq. 2-4), update (Eq. 5-6) and feature contrastive loss (Eq. 8).
#pragma once

#include <cstdint>

#include "../../common/cosine.h"
#include "../../common/dtype.h"
#include "../../common/strided_map.h"
#include "../dispatch.h"

namespace cgcl {

constexpr int64_t kMemoryTile = 256;              // pixels per tile
constexpr int64_t kMemoryRow = kMemoryTile + 16;  // row stride of a tile in floats: not a power of two
constexpr int64_t kMemoryPad = 16;  // channels of a row are padded to a multiple of this, the widest vector
constexpr int64_t kMemoryRows = 4;  // item rows are padded to a multiple of this, for the inner-product blocks

struct FeatureMap {
  Map map;
  int64_t C, H, W;
  Dtype dtype;
  bool pixel_rows;  // vectors run along channels (channels_last) instead of along pixels
};

// N item vectors as float32, twice: (N, C) and (C, N), both padded with zeros.
struct Items {
  const float *rows, *columns;
  int64_t count, ld_rows, ld_columns;
};

struct Classes {
  const int64_t *pixels, *items;  // (B·H·W) and (N), or both null
};

struct MemoryReadArgs {
  int64_t pixels;  // H·W
  FeatureMap content, out;
  Items keys, values;  // keys of length 1/τ
  Classes classes;
  float *cosines, *rnorm;  // (B, N, H·W) cosines over τ, and (B, H·W) reciprocal lengths of the pixels' content
};

struct MemoryReadBackwardArgs {
  int64_t pixels;
  FeatureMap content, grad, dcontent;
  Items keys, values;
  const float *cosines, *rnorm;
  bool need_content, need_keys, need_values;
};

struct MemoryUpdateArgs {
  int64_t pixels;
  FeatureMap content, style;
  Items keys;
  Classes classes;
};

struct MemoryContrastArgs {
  int64_t pixels;
  FeatureMap features;
  Items items;
  Classes classes;
  float rtemperature;
  float *loss, *logit_grad;  // (B, H·W) and (B, N, H·W): softmax minus one-hot of the nearest item
};

struct MemoryContrastBackwardArgs {
  int64_t pixels;
  FeatureMap features, dfeatures;
  Items items;
  const float *grad, *logit_grad;  // grad (B, H·W)
  float rtemperature;
  bool need_features, need_items;
};

// Sums over the tiles of one call: (N, C) and (N, Cv), with rows padded to kMemoryPad, and weights (N).
struct MemorySums {
  float *keys, *values, *weights;
};

// begin and end count tiles: image · tiles per image + tile.
struct MemoryKernels {
  void (*read)(const MemoryReadArgs&, float* scratch, int64_t begin, int64_t end);
  void (*read_backward)(const MemoryReadBackwardArgs&, const MemorySums&, float* scratch, int64_t begin, int64_t end);
  void (*update)(const MemoryUpdateArgs&, const MemorySums&, float* scratch, int64_t begin, int64_t end);
  int64_t (*contrast)(const MemoryContrastArgs&, float* scratch, int64_t begin,
                      int64_t end);  // returns how many pixels count
  void (*contrast_backward)(const MemoryContrastBackwardArgs&, const MemorySums&, float* scratch, int64_t begin,
                            int64_t end);
};

CGCL_DECLARE_KERNELS(MemoryKernels, memory_kernels)

// Scratch floats of a kernel for N items and maps with `channels` channels in total.
inline int64_t memory_scratch(int64_t channels, int64_t maps, int64_t N) {
  const int64_t rows = channels + maps * kMemoryPad + 5 * (N + kMemoryRows) + 4;
  return rows * kMemoryRow;
}

}  // namespace cgcl
