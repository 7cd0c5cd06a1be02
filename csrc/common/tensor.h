// Helpers of the stable-ABI ops on any device: checks that name the argument, dense float32 copies, new tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>

namespace cgcl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_dim(const Tensor& tensor, int64_t dim, const char* op, const char* argument) {
  STD_TORCH_CHECK(tensor.dim() == dim, op, ": expected ", argument, " with ", dim, " dimensions, got ", tensor.dim());
}

// The tensor itself if it is already dense.
inline Tensor dense(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

// A dense float32 tensor: the tensor itself if it is one already, a copy otherwise.
inline Tensor as_float32(const Tensor& tensor) {
  return dense(tensor.scalar_type() == ScalarType::Float ? tensor : torch::stable::to(tensor, ScalarType::Float));
}

// Uninitialised, on the device of `like`. Bypasses the dispatcher, which the ABI calls by operator name with boxed
// arguments: for small ops, which allocate several tensors, that takes longer than the allocation itself.
inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, std::initializer_list<int64_t> strides,
                         ScalarType type) {
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.begin(), strides.begin(), dtype, device_type,
                                                  device_index, &made));
  return Tensor(made);
}

inline Tensor new_tensor(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  const int64_t* n = sizes.begin();
  const auto size = [&](size_t d) { return std::max<int64_t>(n[d], 1); };
  switch (sizes.size()) {
    case 0: return new_tensor(like, {}, {}, type);
    case 1: return new_tensor(like, sizes, {1}, type);
    case 2: return new_tensor(like, sizes, {size(1), 1}, type);
    case 3: return new_tensor(like, sizes, {size(1) * size(2), size(2), 1}, type);
    default:
      STD_TORCH_CHECK(sizes.size() == 4, "cgcl_fast: expected at most 4 dimensions, got ", sizes.size());
      return new_tensor(like, sizes, {size(1) * size(2) * size(3), size(2) * size(3), size(3), 1}, type);
  }
}

}  // namespace cgcl
