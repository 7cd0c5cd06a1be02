// cgcl_fast::_gather_patches and its gradient on the CPU. Elements are only moved, so a single build serves all processors;
// speed depends on the order of memory accesses.
#include <cstdint>
#include <cstring>
#include <vector>

#include "ids.h"
#include "page_cache.h"

namespace cgcl {
namespace {

constexpr int64_t kChannels = 16;  // one cache line of float32 in the output
constexpr int64_t kPatches = 256;  // a tile of kChannels x kPatches stays in the L1 cache

template <typename T>
struct Plane {
  T* data;
  int64_t stride_b, stride_c, stride_h, stride_w, width;
  bool one_row;  // rows follow one another

  explicit Plane(const Tensor& t)
      : data(static_cast<T*>(t.mutable_data_ptr())), stride_b(t.stride(0)), stride_c(t.stride(1)), stride_h(t.stride(2)),
        stride_w(t.stride(3)), width(t.size(3)), one_row(t.size(2) <= 1 || t.stride(2) == t.size(3) * t.stride(3)) {}

  int64_t offset(int64_t id) const { return one_row ? id * stride_w : id / width * stride_h + id % width * stride_w; }
};

template <typename T>
void gather(const Tensor& features, const Ids& ids, Tensor& out) {
  const int64_t B = features.size(0), C = features.size(1), P = ids.count;
  const Plane<const T> map(features);
  T* const rows = static_cast<T*>(out.mutable_data_ptr());
  const int64_t patch_tiles = (P + kPatches - 1) / kPatches;
  if (map.stride_c == 1) {  // channels are neighbours: whole rows
    parallel(B * patch_tiles, kPatches * C, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t b = tile / patch_tiles, first = tile % patch_tiles * kPatches;
        const int64_t last = std::min(P, first + kPatches);
        for (int64_t p = first; p < last; ++p)
          std::memcpy(rows + (b * P + p) * C, map.data + b * map.stride_b + map.offset(ids.at(b, p)), C * sizeof(T));
      }
    });
    return;
  }
  const int64_t channel_tiles = (C + kChannels - 1) / kChannels;
  parallel(B * channel_tiles * patch_tiles, 4 * kPatches * kChannels, [&](int64_t begin, int64_t end) {
    int64_t offsets[kPatches];
    T tile[kPatches * kChannels];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / (channel_tiles * patch_tiles), c = item / patch_tiles % channel_tiles * kChannels;
      const int64_t first = item % patch_tiles * kPatches;
      const int64_t patches = std::min(P - first, kPatches), channels = std::min(C - c, kChannels);
      for (int64_t p = 0; p < patches; ++p) offsets[p] = map.offset(ids.at(b, first + p));
      // One channel plane at a time: its patches lie in few memory pages.
      for (int64_t k = 0; k < channels; ++k) {
        const T* const plane = map.data + b * map.stride_b + (c + k) * map.stride_c;
        for (int64_t p = 0; p < patches; ++p) tile[p * kChannels + k] = plane[offsets[p]];
      }
      T* const to = rows + (b * P + first) * C + c;
      for (int64_t p = 0; p < patches; ++p) std::memcpy(to + p * C, tile + p * kChannels, channels * sizeof(T));
    }
  });
}

bool repeats(const Ids& ids, int64_t batch, int64_t positions) {
  std::vector<bool> seen;
  for (int64_t b = 0; b < (ids.stride_b == 0 ? std::min<int64_t>(batch, 1) : batch); ++b) {
    seen.assign(positions, false);
    for (int64_t p = 0; p < ids.count; ++p) {
      if (seen[ids.at(b, p)]) return true;
      seen[ids.at(b, p)] = true;
    }
  }
  return false;
}

inline void add(float& to, float value) { to += value; }
inline void add(bf16& to, bf16 value) { to = value; }  // only for distinct ids: repeated ones are summed in float32

// Each thread zeroes a stretch of the map, then stores the gradients that belong there while it is in the cache.
template <typename T>
void scatter_planes(const Tensor& grad, const Ids& ids, Tensor& map) {
  const int64_t B = map.size(0), C = map.size(1), N = map.size(2) * map.size(3), P = ids.count;
  const T* const g = static_cast<const T*>(grad.const_data_ptr());
  const int64_t g_b = grad.stride(0), g_p = grad.stride(1), g_c = grad.stride(2);
  T* const out = static_cast<T*>(map.mutable_data_ptr());
  const int64_t tiles = (C + kChannels - 1) / kChannels;
  parallel(B * tiles, kChannels * N, [&](int64_t begin, int64_t end) {
    std::vector<T> columns(kChannels * P);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / tiles, c = item % tiles * kChannels, channels = std::min(C - c, kChannels);
      for (int64_t p = 0; p < P; ++p)
        for (int64_t k = 0; k < channels; ++k) columns[k * P + p] = g[b * g_b + p * g_p + (c + k) * g_c];
      for (int64_t k = 0; k < channels; ++k) {
        T* const plane = out + (b * C + c + k) * N;
        std::memset(static_cast<void*>(plane), 0, N * sizeof(T));
        const T* const column = columns.data() + k * P;
        for (int64_t p = 0; p < P; ++p) add(plane[ids.at(b, p)], column[p]);
      }
    }
  });
}

template <typename T>
void scatter_pixels(const Tensor& grad, const Ids& ids, Tensor& map) {  // channels_last
  const int64_t B = map.size(0), C = map.size(1), N = map.size(2) * map.size(3), P = ids.count;
  const T* const g = static_cast<const T*>(grad.const_data_ptr());
  const int64_t g_b = grad.stride(0), g_p = grad.stride(1), g_c = grad.stride(2);
  T* const out = static_cast<T*>(map.mutable_data_ptr());
  // Stretches of 256 KiB, at most 64 per image, because each one scans all ids of its image.
  const int64_t pixels = std::max<int64_t>({1, (N + 63) / 64, 65536 * 4 / int64_t(C * sizeof(T))});
  const int64_t tiles = (N + pixels - 1) / pixels;
  parallel(B * tiles, C * pixels, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / tiles, first = item % tiles * pixels, count = std::min(N - first, pixels);
      T* const part = out + (b * N + first) * C;
      std::memset(static_cast<void*>(part), 0, count * C * sizeof(T));
      for (int64_t p = 0; p < P; ++p) {
        const uint64_t pixel = uint64_t(ids.at(b, p) - first);
        if (pixel >= uint64_t(count)) continue;
        for (int64_t c = 0; c < C; ++c) add(part[pixel * C + c], g[b * g_b + p * g_p + c * g_c]);
      }
    }
  });
}

template <typename T>
Tensor scatter(const Tensor& grad, const Ids& ids, int64_t C, int64_t H, int64_t W, bool channels_last) {
  Tensor map = empty_large_map(grad.size(0), C, H, W, grad.scalar_type(), channels_last);
  if (map.numel() > 0) channels_last ? scatter_pixels<T>(grad, ids, map) : scatter_planes<T>(grad, ids, map);
  return map;
}

Tensor gather_patches(Tensor features, Tensor ids) {
  check_dim(features, 4, "gather_patches", "features");
  const int64_t B = features.size(0), C = features.size(1);
  const Dtype dtype = dtype_of(features, "gather_patches", "features");
  const Ids rows(ids, B, "gather_patches", "ids");
  check_ids(rows, B, features.size(2) * features.size(3), "gather_patches", "ids");
  Tensor out = new_tensor(features, {B, rows.count, C}, features.scalar_type());
  if (out.numel() > 0) dtype == Dtype::float32 ? gather<float>(features, rows, out) : gather<bf16>(features, rows, out);
  return out;
}

Tensor gather_patches_backward(Tensor grad, Tensor ids, int64_t channels, int64_t height, int64_t width,
                               bool channels_last) {
  check_dim(grad, 3, "gather_patches", "grad");
  const int64_t B = grad.size(0);
  const Dtype dtype = dtype_of(grad, "gather_patches", "grad");
  const Ids rows(ids, B, "gather_patches", "ids");
  STD_TORCH_CHECK(grad.size(1) == rows.count && grad.size(2) == channels && channels >= 0 && height >= 0 && width >= 0,
                  "gather_patches: expected grad of shape (B, P, C) = (", B, ", ", rows.count, ", ", channels, "), got (",
                  B, ", ", grad.size(1), ", ", grad.size(2), ")");
  check_ids(rows, B, height * width, "gather_patches", "ids");
  if (dtype == Dtype::float32) return scatter<float>(grad, rows, channels, height, width, channels_last);
  if (!repeats(rows, B, height * width)) return scatter<bf16>(grad, rows, channels, height, width, channels_last);
  const Tensor sum = scatter<float>(as_float32(grad), rows, channels, height, width, channels_last);
  return torch::stable::to(sum, ScalarType::BFloat16);
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_gather_patches", TORCH_BOX(&cgcl::gather_patches));
  m.impl("_gather_patches_backward", TORCH_BOX(&cgcl::gather_patches_backward));
}
