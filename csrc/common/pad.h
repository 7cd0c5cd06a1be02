// Reflection or replication padding of one side of a map. Positions of the padded side start at -pad.size, so that
// positions of the map itself keep their numbers.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace cgcl {

struct Pad {
  int64_t size = 0;  // on each of the four sides
  bool replicate = false;
};

namespace {  // internal linkage: kernels built for different processors include it

// The position of a side of length n that is copied to position t of the padded side.
CGCL_HOST_DEVICE int64_t shown_at(int64_t t, int64_t n, Pad pad) {
  if (pad.replicate) return t < 0 ? 0 : t < n ? t : n - 1;
  return t < 0 ? -t : t < n ? t : 2 * (n - 1) - t;
}

// The inverse: all padded positions that are copies of one position. A run of neighbours, and separate mirror images.
struct Images {
  int64_t first = 0, neighbours = 1, mirror = 0, second = 0, mirrors = 0;  // no array: a GPU would put it in memory

  CGCL_HOST_DEVICE int64_t count() const { return neighbours + mirrors; }
  CGCL_HOST_DEVICE int64_t at(int64_t i) const { return i < neighbours ? first + i : i == neighbours ? mirror : second; }
};

CGCL_HOST_DEVICE Images images_of(int64_t p, int64_t n, Pad pad) {
  Images images;
  images.first = p;
  if (pad.replicate) {
    if (p == n - 1) images.neighbours += pad.size;
    if (p == 0) images.first -= pad.size, images.neighbours += pad.size;
  } else {
    if (p >= 1 && p <= pad.size) images.mirror = -p, images.mirrors = 1;
    if (p <= n - 2 && p >= n - 1 - pad.size) {
      const int64_t mirror = 2 * (n - 1) - p;
      if (images.mirrors++ == 0) images.mirror = mirror;
      else images.second = mirror;
    }
  }
  return images;
}

}  // namespace
}  // namespace cgcl
