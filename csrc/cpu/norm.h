// What the norms share on the CPU: the activation by name, channels_last images in ranges of pixels, padded maps.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "../common/moments.h"
#include "kernels/adain.h"
#include "tensor.h"

namespace cgcl {

inline float negative_slope_of(const std::string& activation, const char* op) {
  if (activation == "none") return 1.0f;
  if (activation == "relu") return 0.0f;
  STD_TORCH_CHECK(activation == "leaky_relu", op, ": expected activation 'none', 'relu' or 'leaky_relu', got '", activation,
                  "'");
  return 0.2f;
}

// A channels_last image split into ranges of pixels. The split does not depend on the number of threads, nor do the sums.
struct Ranges {
  int64_t images, pixels, length, count;

  Ranges(int64_t images, int64_t pixels, int64_t channels) : images(images), pixels(pixels) {
    length = std::clamp<int64_t>((int64_t(1) << 15) / std::max<int64_t>(1, channels), 32, 1024);
    count = (pixels + length - 1) / length;
  }

  // body(range, index) in parallel.
  template <class F>
  void each(int64_t channels, const F& body) const {
    parallel(images * count, length * channels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % count * length;
        body(PixelRange{i / count, first, std::min(pixels, first + length)}, i);
      }
    });
  }

  // The moments of a plane b·C + c from those of its ranges: of each range C means, C sums of squares and C of scratch.
  Moments moments(const float* parts, int64_t C, int64_t plane) const {
    const float* part = parts + plane / C * count * 3 * C + plane % C;
    Moments merged;
    for (int64_t r = 0; r < count; ++r, part += 3 * C)
      merged.add(double(std::min(length, pixels - r * length)), part[0], part[C]);
    return merged;
  }

  // The two sums of a plane from those of its ranges, of which each has C and C.
  std::pair<double, double> sums(const float* parts, int64_t C, int64_t plane) const {
    const float* part = parts + plane / C * count * 2 * C + plane % C;
    double first = 0, second = 0;
    for (int64_t r = 0; r < count; ++r, part += 2 * C) {
      first += part[0];
      second += part[C];
    }
    return {first, second};
  }
};

// The map inside its padding.
inline Map inside(Map map, Pad pad, int dtype) {
  const int64_t offset = pad.size * (map.stride_h + map.stride_w), bytes = dtype == int(Dtype::float32) ? 4 : 2;
  map.data = static_cast<char*>(map.data) + offset * bytes;
  return map;
}

}  // namespace cgcl
