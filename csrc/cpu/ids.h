// Reading and checking ids on the CPU.
#pragma once

#include "../common/ids.h"
#include "tensor.h"

namespace cgcl {

inline void check_ids(const Ids& ids, int64_t batch, int64_t positions, const char* op, const char* argument) {
  const int64_t rows = ids.one_row ? 1 : ids.stride_b == 0 ? std::min<int64_t>(batch, 1) : batch;
  for (int64_t b = 0; b < rows; ++b) {
    bool inside = true;
    for (int64_t p = 0; p < ids.count; ++p) inside &= uint64_t(ids.at(b, p)) < uint64_t(positions);
    for (int64_t p = 0; !inside && p < ids.count; ++p)
      STD_TORCH_CHECK(uint64_t(ids.at(b, p)) < uint64_t(positions), op, ": expected ", argument, " in [0, ", positions,
                      "), the positions of the map, got ", ids.at(b, p));
  }
}

}  // namespace cgcl
