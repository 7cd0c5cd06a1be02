// Flattened positions of a map, as gather_patches and dag_select take them.
#pragma once

#include "tensor.h"

namespace cgcl {

// Ids (P,) or (B, P) of any strides; one row for all images has a row stride of zero.
struct Ids {
  const int64_t* data;
  int64_t count, stride_b, stride_p;

  Ids(const Tensor& ids, int64_t batch, const char* op, const char* argument) {
    STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long, op, ": expected ", argument, " of dtype int64");
    STD_TORCH_CHECK(ids.dim() == 1 || (ids.dim() == 2 && ids.size(0) == batch), op, ": expected ", argument,
                    " of shape (P,) or (B, P) with B = ", batch);
    data = static_cast<const int64_t*>(ids.const_data_ptr());
    count = ids.size(ids.dim() - 1);
    stride_p = ids.stride(ids.dim() - 1);
    stride_b = ids.dim() == 2 ? ids.stride(0) : 0;
  }

  int64_t at(int64_t b, int64_t p) const { return data[b * stride_b + p * stride_p]; }
};

inline void check_ids(const Ids& ids, int64_t batch, int64_t positions, const char* op, const char* argument) {
  const int64_t rows = ids.stride_b == 0 ? std::min<int64_t>(batch, 1) : batch;
  for (int64_t b = 0; b < rows; ++b) {
    bool inside = true;
    for (int64_t p = 0; p < ids.count; ++p) inside &= uint64_t(ids.at(b, p)) < uint64_t(positions);
    for (int64_t p = 0; !inside && p < ids.count; ++p)
      STD_TORCH_CHECK(uint64_t(ids.at(b, p)) < uint64_t(positions), op, ": expected ", argument, " in [0, ", positions,
                      "), the positions of the map, got ", ids.at(b, p));
  }
}

}  // namespace cgcl
