// Feature maps (B, C, H, W): their strides for the kernels and the memory format in which results are allocated.
#pragma once

#include "pad.h"
#include "strided_map.h"
#include "tensor.h"

namespace cgcl {

inline Map map_of(const Tensor& t) { return {t.mutable_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// Whether a pixel's channels are neighbours in memory and all pixels are `stride_w` apart.
inline bool is_channels_last(const Tensor& t) {
  const int64_t C = t.size(1), H = t.size(2), W = t.size(3);
  return C > 1 && H * W > 1 && t.stride(1) == 1 && (W == 1 || t.stride(3) >= C) &&
         (H == 1 || (W == 1 ? t.stride(2) >= C : t.stride(2) == W * t.stride(3)));
}

// channels_last kernels step from pixel to pixel by stride_w only; for a map one pixel wide that is its row stride.
inline Map pixels_of(const Tensor& t) {
  Map map = map_of(t);
  if (t.size(3) == 1) map.stride_w = t.stride(2);
  return map;
}

// Uninitialised, on the device and with the dtype of `like`.
inline Tensor empty_map(const Tensor& like, std::initializer_list<int64_t> sizes, bool channels_last) {
  if (!channels_last) return new_tensor(like, sizes, like.scalar_type());
  const auto size = [&](size_t d) { return std::max<int64_t>(sizes.begin()[d], 1); };
  return new_tensor(like, sizes, {size(1) * size(2) * size(3), 1, size(3) * size(1), size(1)}, like.scalar_type());
}
inline Tensor empty_map(const Tensor& like, bool channels_last) {
  return empty_map(like, {like.size(0), like.size(1), like.size(2), like.size(3)}, channels_last);
}

// Whether both have the same height and width.
inline bool has_size_of(const Tensor& t, const Tensor& x) {
  return t.dim() == 4 && t.size(2) == x.size(2) && t.size(3) == x.size(3);
}

// The op's padding, checked against the size of the map.
inline Pad pad_of(const Tensor& x, const char* op, int64_t size, bool replicate) {
  const int64_t least = std::min(x.size(2), x.size(3));
  STD_TORCH_CHECK(size == 0 || (size > 0 && (replicate ? least > 0 : size < least)), op, ": expected pad from 0 to ",
                  "below the sides of the map, or any with replicate and positions, got ", size, " for a map of ",
                  x.size(2), "x", x.size(3));
  return {size, replicate};
}

}  // namespace cgcl
