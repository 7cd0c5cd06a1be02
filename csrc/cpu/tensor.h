// What every op of the stable ABI needs: checks that name the argument, the element type, a parallel loop.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>

#include "../common/dtype.h"

namespace cgcl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& tensor, const char* op, const char* argument) {
  const ScalarType type = tensor.scalar_type();
  if (type == ScalarType::Float) return Dtype::float32;
  STD_TORCH_CHECK(type == ScalarType::BFloat16, op, ": expected ", argument,
                  " of dtype float32 or bfloat16 for the native CPU kernel; other dtypes take the reference");
  return Dtype::bfloat16;
}

inline void check_dim(const Tensor& tensor, int64_t dim, const char* op, const char* argument) {
  STD_TORCH_CHECK(tensor.dim() == dim, op, ": expected ", argument, " with ", dim, " dimensions, got ", tensor.dim());
}

// A dense float32 tensor; the values themselves if they are that already.
inline Tensor as_float32(const Tensor& tensor) {
  const Tensor converted =
      tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float);
  return torch::stable::contiguous(converted);
}

inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), type);
}

// body(begin, end) over [0, count), at least `work_per_item`·(end - begin) ≈ 32768 elementary steps for each thread.
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
