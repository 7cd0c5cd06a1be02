// Flattened positions of a map, as gather_patches and dag_select take them.
#pragma once

#include "host_device.h"
#include "tensor.h"

namespace cgcl {

// Ids (P,) or (B, P) of any strides; one row for all images has a row stride of zero.
struct Ids {
  const int64_t* data;
  int64_t count, stride_b, stride_p;
  bool one_row;

  Ids(const Tensor& ids, int64_t batch, const char* op, const char* argument) {
    STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long, op, ": expected ", argument, " of dtype int64");
    STD_TORCH_CHECK(ids.dim() == 1 || (ids.dim() == 2 && ids.size(0) == batch), op, ": expected ", argument,
                    " of shape (P,) or (B, P) with B = ", batch);
    data = static_cast<const int64_t*>(ids.const_data_ptr());
    count = ids.size(ids.dim() - 1);
    stride_p = ids.stride(ids.dim() - 1);
    one_row = ids.dim() == 1;
    stride_b = one_row ? 0 : ids.stride(0);
  }

  CGCL_HOST_DEVICE int64_t at(int64_t b, int64_t p) const { return data[b * stride_b + p * stride_p]; }
};

}  // namespace cgcl
