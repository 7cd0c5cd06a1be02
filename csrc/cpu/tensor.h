// CPU helpers of all ops: the element type of a kernel, a parallel loop.
#pragma once

#include "../common/dtype.h"
#include "../common/tensor.h"

namespace cgcl {

inline Dtype dtype_of(const Tensor& tensor, const char* op, const char* argument) {
  const ScalarType type = tensor.scalar_type();
  if (type == ScalarType::Float) return Dtype::float32;
  STD_TORCH_CHECK(type == ScalarType::BFloat16, op, ": expected ", argument,
                  " of dtype float32 or bfloat16 for the native CPU kernel; other dtypes take the reference");
  return Dtype::bfloat16;
}

// body(begin, end) over [0, count). Each call has about 32768 elementary steps or more; an item has `work_per_item`.
template <class F>
inline void parallel(int64_t count, int64_t work_per_item, const F& body) {
  if (count <= 0) return;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, work_per_item));
  if (count <= grain) {
    body(int64_t(0), count);
  } else {
    torch::stable::parallel_for(0, count, grain, body);
  }
}

}  // namespace cgcl
