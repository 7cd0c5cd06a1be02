// cgcl_fast::_memory_read and its backward in CUDA C++.
//
// A block takes 32 pixels of an image, one per lane; its eight warps share the channels. Tiles of channels pass through
// shared memory, so that maps of either layout are read in whole cache lines; the few items are read from the cache.
#include <cmath>
#include <tuple>
#include <utility>

#include "../common/cosine.h"
#include "block.cuh"
#include "launch.h"

namespace cgcl {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kChannels = 64;          // per tile
constexpr int kOfWarp = kChannels / kWarps;
constexpr int kItems = 32;             // items whose sums a thread keeps at a time
constexpr int kPitch = kWarp + 1;      // row stride of a tile: no two lanes hit the same bank
constexpr int kSumPixels = 256;        // pixels of a partial sum, at least
constexpr int kSumParts = 64;          // number of partial sums, approximately

template <typename T>
struct FeatureMap {
  T* data;
  Steps at;
  int64_t C;
  int W;
  bool pixel_rows;  // a pixel's channels are neighbours

  __device__ T* element(int64_t b, int64_t c, int p) const { return plane_at(data, at, b, c) + step_to(at, p, W); }
};

// Item vectors twice, padded with zeros to multiples of 4: (N, ld_rows) and (C, ld_columns).
struct Items {
  float *rows, *columns, *factors;  // factors (N): length of the row over that of the item
  int64_t N, C, ld_rows, ld_columns;
};

// One warp per item: copied, or scaled to `length` if that is given.
__global__ void __launch_bounds__(kThreads) pack_items(const float* from, Items items, double length) {
  const int64_t n = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (n >= items.ld_columns) return;
  const bool real = n < items.N;
  float scale = 1;
  if (length != 0 && real) {
    double squares = 0;
    for (int64_t c = lane; c < items.C; c += kWarp) squares += double(from[n * items.C + c]) * from[n * items.C + c];
    for (int offset = kWarp / 2; offset > 0; offset /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    scale = float(reciprocal_of_norm(sqrt(squares)) * length);
  }
  if (lane == 0 && real) items.factors[n] = scale;
  for (int64_t c = lane; c < items.ld_rows; c += kWarp) {
    const float value = real && c < items.C ? from[n * items.C + c] * scale : 0.0f;
    if (real) items.rows[n * items.ld_rows + c] = value;
    if (c < items.C) items.columns[c * items.ld_columns + n] = value;
  }
}

// A block's shared memory.
struct Shared {
  float tile[kChannels][kPitch];
  float parts[kWarps][kItems][kWarp];
  float of_warps[kWarps][kWarp];
  float scale[kWarp];
};

struct Block {
  Shared& s;
  int64_t b;
  int first, pixels, warp, lane;  // this lane's pixel is first + lane

  __device__ Block(Shared& s, int pixels) : s(s), pixels(pixels), warp(threadIdx.x / kWarp), lane(threadIdx.x % kWarp) {
    const int tiles = (pixels + kWarp - 1) / kWarp;
    b = blockIdx.x / tiles;
    first = blockIdx.x % tiles * kWarp;
  }
  __device__ bool inside() const { return first + lane < pixels; }
  // Index of (item n, this lane's pixel) in (B, N, H·W).
  __device__ int64_t at(int64_t N, int64_t n) const { return (b * N + n) * pixels + first + lane; }

  // The sum of a pixel's values over the warps, returned to every thread of the pixel.
  __device__ float over_warps(float value) const {
    __syncthreads();
    s.of_warps[warp][lane] = value;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < kWarps; ++i) sum += s.of_warps[i][lane];
    return sum;
  }

  // visit(channel of the tile, pixel of the tile), in memory order.
  template <class F>
  __device__ void for_tile(bool pixel_rows, const F& visit) const {
    for (int i = threadIdx.x; i < kChannels * kWarp; i += kThreads)
      pixel_rows ? visit(i % kChannels, i / kChannels) : visit(i / kWarp, i % kWarp);
  }

  template <typename T>
  __device__ void load_tile(const FeatureMap<T>& m, int64_t c0) const {
    __syncthreads();
    for_tile(m.pixel_rows, [&](int c, int p) {
      s.tile[c][p] = c0 + c < m.C && first + p < pixels ? to_float(*m.element(b, c0 + c, first + p)) : 0.0f;
    });
    __syncthreads();
  }

  // Inner products of the pixels with all items. Calls each(n, product, the pixel's Σx²) for the items n of this warp
  // (n % kWarps == warp).
  template <typename T, class F>
  __device__ void products(const FeatureMap<T>& m, const Items& items, const F& each) const {
    float squares = 0;
    for (int64_t n0 = 0; n0 < items.N; n0 += kItems) {
      float sum[kItems] = {}, own = 0;
      for (int64_t c0 = 0; c0 < m.C; c0 += kChannels) {
        load_tile(m, c0);
        for (int i = 0; i < kOfWarp; ++i) {
          const int64_t c = c0 + warp * kOfWarp + i;
          if (c >= m.C) break;
          const float x = s.tile[warp * kOfWarp + i][lane];
          own = fmaf(x, x, own);
          const float* const column = items.columns + c * items.ld_columns + n0;
#pragma unroll
          for (int j = 0; j < kItems; j += 4) {
            if (n0 + j >= items.N) break;
            const float4 k = *reinterpret_cast<const float4*>(column + j);
            sum[j] = fmaf(x, k.x, sum[j]);
            sum[j + 1] = fmaf(x, k.y, sum[j + 1]);
            sum[j + 2] = fmaf(x, k.z, sum[j + 2]);
            sum[j + 3] = fmaf(x, k.w, sum[j + 3]);
          }
        }
      }
      if (n0 == 0) squares = over_warps(own);
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kItems; ++j) s.parts[warp][j][lane] = sum[j];
      __syncthreads();
      for (int j = warp; j < kItems && n0 + j < items.N; j += kWarps) {
        float product = 0;
        for (int i = 0; i < kWarps; ++i) product += s.parts[i][j][lane];
        each(n0 + j, product, squares);
      }
    }
  }

  // Σ_n weights(n)·item n for all channels: calls put(channel, pixel of the tile, sum), in memory order.
  template <class F, class G>
  __device__ void combine(const Items& items, bool pixel_rows, const F& weight, const G& put) const {
    for (int64_t c0 = 0; c0 < items.C; c0 += kChannels) {
      float sum[kOfWarp] = {};
      const int64_t c = c0 + warp * kOfWarp;
      if (inside() && c < items.C) {
        for (int64_t n = 0; n < items.N; ++n) {
          const float w = weight(n);
          const float* const row = items.rows + n * items.ld_rows + c;
#pragma unroll
          for (int j = 0; j < kOfWarp; j += 4) {
            if (c + j >= items.C) break;
            const float4 v = *reinterpret_cast<const float4*>(row + j);
            sum[j] = fmaf(w, v.x, sum[j]);
            sum[j + 1] = fmaf(w, v.y, sum[j + 1]);
            sum[j + 2] = fmaf(w, v.z, sum[j + 2]);
            sum[j + 3] = fmaf(w, v.w, sum[j + 3]);
          }
        }
      }
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kOfWarp; ++j) s.tile[warp * kOfWarp + j][lane] = sum[j];
      __syncthreads();
      for_tile(pixel_rows, [&](int channel, int p) {
        if (c0 + channel < items.C && first + p < pixels) put(c0 + channel, p, s.tile[channel][p]);
      });
    }
  }
};

__device__ inline float weight_of(float cosine, float scale) { return softmax_weight(expf(cosine), cosine, scale); }

template <typename T>
struct ReadCall {
  FeatureMap<const T> content;
  FeatureMap<T> out;
  Items keys, values;  // keys of length 1/τ
  const int64_t *pixel_class, *item_class;  // (B, H·W) and (N), or both null
  float *cosines, *rnorm;                   // (B, N, H·W) and (B, H·W)
  int pixels;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 3) read_memory(ReadCall<T> a) {
  __shared__ Shared shared;
  const Block t(shared, a.pixels);
  const int64_t N = a.keys.N, pixel = t.b * a.pixels + t.first + t.lane;
  const bool classes = a.pixel_class != nullptr && t.inside();
  const int64_t own_class = classes ? a.pixel_class[pixel] : 0;
  float total = 0;
  t.products(a.content, a.keys, [&](int64_t n, float product, float squares) {
    const float rnorm = reciprocal_of_norm(sqrtf(squares));
    const float cosine = classes && a.item_class[n] != own_class ? kMemoryMasked : product * rnorm;
    total += expf(cosine);
    if (!t.inside()) return;
    a.cosines[t.at(N, n)] = cosine;
    if (n == 0) a.rnorm[pixel] = rnorm;
  });
  const float scale = softmax_scale(t.over_warps(total));  // its barriers also make all warps' cosines visible
  t.combine(
      a.values, a.out.pixel_rows, [&](int64_t n) { return weight_of(a.cosines[t.at(N, n)], scale); },
      [&](int64_t c, int p, float sum) { from_float(a.out.element(t.b, c, t.first + p), sum); });
}

template <typename T>
struct ReadBackwardCall {
  FeatureMap<const T> content, grad;
  FeatureMap<T> dcontent;  // null data if not wanted
  Items keys, values;
  const float *cosines, *rnorm;
  float *weights, *dcosines;  // softmax weights, and gradients over ‖content‖, each (B, N, H·W) or null
  int pixels;
};

// Notation: weights α, cosines d over τ, ĉ content of unit length, k̂ keys of length 1/τ.
//   dv = Σ_p α g,   dα = g·v,   dd = α(dα - Σ_n α dα),   dk̂ = Σ_p dd ĉ,   dc = (Σ_n dd k̂ - ĉ Σ_n dd d)/‖c‖.
template <typename T>
__global__ void __launch_bounds__(kThreads, 3) read_memory_backward(ReadBackwardCall<T> a) {
  __shared__ Shared shared;
  const Block t(shared, a.pixels);
  const int64_t N = a.keys.N, pixel = t.b * a.pixels + t.first + t.lane;
  float total = 0;
  if (t.inside())
    for (int64_t n = t.warp; n < N; n += kWarps) total += expf(a.cosines[t.at(N, n)]);
  const float scale = softmax_scale(t.over_warps(total));
  if (a.weights != nullptr && t.inside())
    for (int64_t n = t.warp; n < N; n += kWarps) a.weights[t.at(N, n)] = weight_of(a.cosines[t.at(N, n)], scale);
  if (a.dcosines == nullptr) return;

  float inner = 0, along = 0;
  t.products(a.grad, a.values, [&](int64_t n, float product, float) {
    if (!t.inside()) return;
    a.dcosines[t.at(N, n)] = product;
    inner += softmax_inner(weight_of(a.cosines[t.at(N, n)], scale), product);
  });
  inner = t.over_warps(inner);
  const float rnorm = t.inside() ? a.rnorm[pixel] : 0.0f;
  if (t.inside())
    for (int64_t n = t.warp; n < N; n += kWarps) {  // the items whose products this thread wrote
      const int64_t at = t.at(N, n);
      const float cosine = a.cosines[at], dd = softmax_gradient(weight_of(cosine, scale), a.dcosines[at], inner);
      along = fmaf(dd, cosine, along);
      a.dcosines[at] = dd * rnorm;
    }
  along = t.over_warps(along);
  if (a.dcontent.data == nullptr) return;
  if (t.warp == 0) shared.scale[t.lane] = along * rnorm * rnorm;  // combine's barriers come before it is read
  t.combine(
      a.keys, a.dcontent.pixel_rows, [&](int64_t n) { return a.dcosines[t.at(N, n)]; },
      [&](int64_t c, int p, float sum) {
        const float x = to_float(*a.content.element(t.b, c, t.first + p));
        from_float(a.dcontent.element(t.b, c, t.first + p), sum - x * shared.scale[p]);
      });
}

// Σ_p weight·x for each item and channel over one part of the pixels: parts (part, N, C), 32 items and 64 channels per block.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_over_pixels(FeatureMap<const T> m, const float* weights, float* sums, int64_t N, int pixels, int part_pixels) {
  __shared__ float x[kChannels][kPitch], w[kItems][kPitch];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t item_tiles = (N + kItems - 1) / kItems, channel_tiles = (m.C + kChannels - 1) / kChannels;
  const int64_t part = blockIdx.x / (item_tiles * channel_tiles);
  const int64_t n0 = blockIdx.x / channel_tiles % item_tiles * kItems, c0 = blockIdx.x % channel_tiles * kChannels;
  const int64_t of_image = (pixels + part_pixels - 1) / part_pixels, b = part / of_image;
  const int begin = int(part % of_image) * part_pixels, end = min(begin + part_pixels, pixels);
  float sum[kItems / kWarps][2] = {};
  for (int first = begin; first < end; first += kWarp) {
    __syncthreads();
    for (int i = threadIdx.x; i < kChannels * kWarp; i += kThreads) {
      const int c = m.pixel_rows ? i % kChannels : i / kWarp, p = m.pixel_rows ? i / kChannels : i % kWarp;
      x[c][p] = c0 + c < m.C && first + p < end ? to_float(*m.element(b, c0 + c, first + p)) : 0.0f;
    }
    for (int n = warp; n < kItems; n += kWarps)
      w[n][lane] = n0 + n < N && first + lane < end ? weights[(b * N + n0 + n) * pixels + first + lane] : 0.0f;
    __syncthreads();
    for (int p = 0; p < kWarp; ++p) {
      const float low = x[lane][p], high = x[lane + kWarp][p];
#pragma unroll
      for (int i = 0; i < kItems / kWarps; ++i) {
        const float weight = w[i * kWarps + warp][p];
        sum[i][0] = fmaf(weight, low, sum[i][0]);
        sum[i][1] = fmaf(weight, high, sum[i][1]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kItems / kWarps; ++i) {
    const int64_t n = n0 + i * kWarps + warp;
    if (n >= N) break;
    if (c0 + lane < m.C) sums[(part * N + n) * m.C + c0 + lane] = sum[i][0];
    if (c0 + lane + kWarp < m.C) sums[(part * N + n) * m.C + c0 + lane + kWarp] = sum[i][1];
  }
}

// Adds the parts of each item in order. `project`: converts the gradient to the packed key (length 1/τ) into that to the key,
// by removing the component along the key. Its value is τ², or 0 for no projection.
__global__ void __launch_bounds__(kThreads)
    add_parts(const float* sums, float* to, int64_t parts, int64_t N, int64_t C, Items keys, float project) {
  __shared__ float shared[kWarp];
  const int64_t n = blockIdx.x;
  float along = 0;
  for (int64_t c = threadIdx.x; c < C; c += kThreads) {
    float sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += sums[(part * N + n) * C + c];
    to[n * C + c] = sum;
    if (project != 0) along = fmaf(sum, keys.rows[n * keys.ld_rows + c], along);
  }
  if (project == 0) return;
  along = block_sum(along, shared) * project;
  for (int64_t c = threadIdx.x; c < C; c += kThreads)
    to[n * C + c] = (to[n * C + c] - along * keys.rows[n * keys.ld_rows + c]) * keys.factors[n];
}

// Item vectors in the kernels' layouts, with the memory that holds them.
class PackedItems {
 public:
  PackedItems(const OnDevice& device, const Tensor& items, double length = 0)
      : N_(items.size(0)), C_(items.size(1)), values_(as_float32(items)),
        room_(new_tensor(items, {N_ * padded(C_) + C_ * padded(N_) + N_}, ScalarType::Float)) {
    device.launch(pack_items, N_ * C_ == 0 ? 0 : ceil_div(padded(N_), kWarps), kThreads, elements<float>(values_), items_(),
                  length);
  }
  Items items() { return items_(); }

 private:
  static int64_t padded(int64_t n) { return ceil_div(n, 4) * 4; }
  Items items_() {
    float* const rows = elements<float>(room_);
    float* const columns = rows + N_ * padded(C_);
    return {rows, columns, columns + C_ * padded(N_), N_, C_, padded(C_), padded(N_)};
  }
  int64_t N_, C_;
  const Tensor values_;
  Tensor room_;
};

template <typename T>
FeatureMap<T> feature_map(T* data, const Tensor& t) {
  return {data,
          {t.stride(0), t.stride(1), t.stride(2), t.stride(3), t.size(2) <= 1 || t.stride(2) == t.size(3) * t.stride(3)},
          t.size(1),
          int(t.size(3)),
          is_channels_last(t)};
}

void check_items(const Tensor& items, const Tensor& content, int64_t N, int64_t C, const char* argument) {
  const char* op = "memory_read";
  check_dim(items, 2, op, argument);
  check_device(items, content, op, argument);
  STD_TORCH_CHECK(items.size(0) == N && items.size(1) == C, op, ": expected ", argument, " of shape (", N, ", ", C,
                  "), got (", items.size(0), ", ", items.size(1), ")");
}

std::optional<Tensor> class_tensor(const std::optional<Tensor>& classes, const Tensor& content, int64_t count,
                                   const char* argument) {
  if (!classes.has_value()) return std::nullopt;
  check_device(*classes, content, "memory_read", argument);
  STD_TORCH_CHECK(classes->scalar_type() == ScalarType::Long && classes->numel() == count, "memory_read: expected ",
                  argument, " of dtype int64 with ", count, " elements");
  return dense(*classes);
}

void check_temperature(double temperature) {
  STD_TORCH_CHECK(temperature >= kMemoryMinTemperature && std::isfinite(temperature),
                  "memory_read: expected a finite temperature of at least ", kMemoryMinTemperature, ", got ", temperature);
}

int64_t pixel_blocks(const Tensor& content) { return content.size(0) * ceil_div(content.size(2) * content.size(3), kWarp); }

std::tuple<Tensor, Tensor, Tensor> memory_read(Tensor content, Tensor keys, Tensor values,
                                               std::optional<Tensor> pixel_class, std::optional<Tensor> item_class,
                                               double temperature) {
  const char* op = "memory_read";
  check_temperature(temperature);
  check_dim(content, 4, op, "content");
  const OnDevice device(content, op, "content");
  const int64_t B = content.size(0), pixels = content.size(2) * content.size(3), N = keys.size(0);
  STD_TORCH_CHECK(pixels < (int64_t(1) << 31), op, ": expected planes of less than 2^31 pixels, got ", pixels);
  check_items(keys, content, N, content.size(1), "keys");
  check_dim(values, 2, op, "values");
  check_items(values, content, N, values.size(1), "values");
  STD_TORCH_CHECK(pixel_class.has_value() == item_class.has_value(), op,
                  ": expected pixel_class and item_class, or neither");
  const std::optional<Tensor> of_pixels = class_tensor(pixel_class, content, B * pixels, "pixel_class");
  const std::optional<Tensor> of_items = class_tensor(item_class, content, N, "item_class");

  Tensor out = empty_map(content, {B, values.size(1), content.size(2), content.size(3)}, is_channels_last(content));
  Tensor cosines = new_tensor(content, {B, N, pixels}, ScalarType::Float);
  Tensor rnorm = new_tensor(content, {B, pixels}, ScalarType::Float);
  with_element(content, op, "content", [&](auto element) {
    using T = decltype(element);
    if (B * pixels == 0) return;
    PackedItems packed_keys(device, keys, 1 / temperature), packed_values(device, values);
    FeatureMap<T> result = feature_map(elements<T>(out), out);
    result.pixel_rows = is_channels_last(content);
    const ReadCall<T> call{feature_map(elements<T>(std::as_const(content)), content),
                           result,
                           packed_keys.items(),
                           packed_values.items(),
                           of_pixels.has_value() ? elements<int64_t>(*of_pixels) : nullptr,
                           of_items.has_value() ? elements<int64_t>(*of_items) : nullptr,
                           elements<float>(cosines),
                           elements<float>(rnorm),
                           int(pixels)};
    device.launch(read_memory<T>, pixel_blocks(content), kThreads, call);
  });
  return {out, cosines, rnorm};
}

std::tuple<Tensor, Tensor, Tensor> memory_read_backward(Tensor grad, Tensor content, Tensor keys, Tensor values,
                                                        Tensor cosines, Tensor rnorm, bool need_content, bool need_keys,
                                                        bool need_values, double temperature) {
  const char* op = "memory_read";
  check_temperature(temperature);
  check_dim(content, 4, op, "content");
  const OnDevice device(content, op, "content");
  const int64_t B = content.size(0), C = content.size(1), H = content.size(2), W = content.size(3), pixels = H * W;
  const int64_t N = keys.size(0), Cv = values.size(1);
  check_items(keys, content, N, C, "keys");
  check_items(values, content, N, Cv, "values");
  check_dim(grad, 4, op, "grad");
  check_device(grad, content, op, "grad");
  STD_TORCH_CHECK(grad.size(0) == B && grad.size(1) == Cv && grad.size(2) == H && grad.size(3) == W &&
                      grad.scalar_type() == content.scalar_type(),
                  op, ": expected grad of shape (B, Cv, H, W) = (", B, ", ", Cv, ", ", H, ", ", W, ") and content's dtype");
  const Tensor saved_cosines = as_float32(cosines), saved_rnorm = as_float32(rnorm);
  check_device(saved_cosines, content, op, "cosines");
  check_device(saved_rnorm, content, op, "rnorm");
  STD_TORCH_CHECK(saved_cosines.numel() == B * N * pixels && saved_rnorm.numel() == B * pixels, op,
                  ": expected cosines (B, N, H*W) and rnorm (B, H*W) of the forward pass");

  const bool channels_last = is_channels_last(content);
  Tensor dcontent =
      need_content ? empty_map(content, channels_last) : new_tensor(content, {0, C, H, W}, content.scalar_type());
  Tensor dkeys = new_tensor(content, {need_keys ? N : 0, C}, ScalarType::Float);
  Tensor dvalues = new_tensor(content, {need_values ? N : 0, Cv}, ScalarType::Float);
  with_element(content, op, "content", [&](auto element) {
    using T = decltype(element);
    if (B * pixels == 0) {  // sums over no pixels
      device.fill_with_zeros(dkeys.mutable_data_ptr(), dkeys.numel() * sizeof(float));
      device.fill_with_zeros(dvalues.mutable_data_ptr(), dvalues.numel() * sizeof(float));
      return;
    }
    PackedItems packed_keys(device, keys, 1 / temperature), packed_values(device, values);
    const bool need_cosines = need_content || need_keys;
    Tensor weights = new_tensor(content, {need_values ? B : 0, N, pixels}, ScalarType::Float);
    Tensor dcosines = new_tensor(content, {need_cosines ? B : 0, N, pixels}, ScalarType::Float);
    FeatureMap<T> result{};
    if (need_content && C > 0) {
      result = feature_map(elements<T>(dcontent), dcontent);
      result.pixel_rows = channels_last;
    }
    const FeatureMap<const T> content_map = feature_map(elements<T>(std::as_const(content)), content);
    const FeatureMap<const T> grad_map = feature_map(elements<T>(std::as_const(grad)), grad);
    const ReadBackwardCall<T> call{content_map,
                                   grad_map,
                                   result,
                                   packed_keys.items(),
                                   packed_values.items(),
                                   elements<float>(saved_cosines),
                                   elements<float>(saved_rnorm),
                                   need_values ? elements<float>(weights) : nullptr,
                                   need_cosines ? elements<float>(dcosines) : nullptr,
                                   int(pixels)};
    device.launch(read_memory_backward<T>, pixel_blocks(content), kThreads, call);

    const int64_t least = ceil_div(B * pixels, kSumParts * kWarp) * kWarp;
    const int part_pixels = int(std::min<int64_t>(std::max<int64_t>(least, kSumPixels), ceil_div(pixels, kWarp) * kWarp));
    const int64_t parts = B * ceil_div(pixels, part_pixels);
    const auto sum = [&](const FeatureMap<const T>& map, Tensor& factors, Tensor& to, float project) {
      Tensor sums = new_tensor(content, {parts, N, map.C}, ScalarType::Float);
      if (to.numel() == 0) return;
      device.launch(sum_over_pixels<T>, parts * ceil_div(N, kItems) * ceil_div(map.C, kChannels), kThreads, map,
                    elements<float>(factors), elements<float>(sums), N, int(pixels), part_pixels);
      device.launch(add_parts, N, kThreads, elements<float>(sums), elements<float>(to), parts, N, map.C,
                    packed_keys.items(), project);
    };
    if (need_keys) sum(content_map, dcosines, dkeys, float(temperature * temperature));
    if (need_values) sum(grad_map, weights, dvalues, 0.0f);
  });
  return {dcontent, dkeys, dvalues};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CUDA, m) {
  m.impl("_memory_read", TORCH_BOX(&cgcl::memory_read));
  m.impl("_memory_read_backward", TORCH_BOX(&cgcl::memory_read_backward));
}
