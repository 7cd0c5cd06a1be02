// cgcl_fast::_adain and _adain_backward in CUDA C++.
//
// A plane that fits in the registers of one block is read once and written once. Larger planes and channels_last maps, whose
// planes interleave, are split into chunks: one kernel computes the moments (or gradient sums) of each chunk, a second merges
// them per plane in a fixed order, a third writes. No atomics, so results are reproducible. Padding takes a separate pass
// here; the Triton kernels, which Python prefers if Triton is there, pad as they write.
#include <string>
#include <tuple>

#include "../common/activation.h"
#include "../common/moments.h"
#include "block.cuh"
#include "launch.h"
#include "pad.cuh"

namespace cgcl {
namespace {

constexpr int kForwardItems = 16, kBackwardItems = 8;  // elements of a plane that a thread keeps in registers
constexpr int kMaxThreads = 1024;
constexpr int kChunkThreads = 256;
constexpr int kPixelsOfThread = 8;  // of a channels_last chunk, at least this many
constexpr int kMaxChunks = 512;  // of a channels_last image, at most this many

// What the kernels of one call share. A chunk has `chunk` positions. Sums of chunks are stored as [image][chunk][channel],
// those of planes as [image][channel].
struct Call {
  int64_t C;
  int positions, W, chunk, chunks, lanes;  // lanes: threads side by side along the channels, channels_last only
  float eps, slope;
  const float *scale, *shift;  // (B, C), or null for 1 and 0
  float *mean, *rstd;  // (B, C)
  float *first, *second;  // of chunks: means and squared deviations, or sums of g' and g'n
  float *mean_g, *mean_gn;  // of planes
  float *dscale, *dshift;  // (B, C), or both null

  __device__ int length(int k) const { return min(chunk, positions - k * chunk); }
  __device__ float scale_of(int64_t plane) const { return scale == nullptr ? 1.0f : scale[plane]; }
  __device__ float shift_of(int64_t plane) const { return shift == nullptr ? 0.0f : shift[plane]; }
};

template <typename T>
struct Maps {
  const T* x;
  const T* other;  // residual (may be null), or the gradient
  T* to;
  Steps x_at, other_at, to_at;
};

// body(k, position) for a thread's positions first + (k·threads + thread)·N ... below `end`; k counts elements.
template <int N, int Items, class F>
__device__ inline void for_items(int first, int end, const F& body) {
#pragma unroll
  for (int k = 0; k < Items; k += N) {
    const int p = first + (k * int(blockDim.x) + int(threadIdx.x) * N);
    if (p < end) body(k, p);
  }
}

// Mean and sum of squared deviations of positions [first, end) of a plane; their values stay in v.
template <int N, typename T>
__device__ inline void moments_of(float (&v)[kForwardItems], const T* x, const Steps& at, int W, int first, int end,
                                  float* shared, float* mean, float* squares) {
  float sum = 0, squared = 0;
  for_items<N, kForwardItems>(first, end, [&](int k, int p) {
    read<N>(v + k, x + step_to(at, p, W));
#pragma unroll
    for (int i = 0; i < N; ++i) sum += v[k + i];
  });
  *mean = block_sum(sum, shared) / float(end - first);
  for_items<N, kForwardItems>(first, end, [&](int k, int) {
#pragma unroll
    for (int i = 0; i < N; ++i) squared += (v[k + i] - *mean) * (v[k + i] - *mean);
  });
  *squares = block_sum(squared, shared);
}

template <int N, typename T>
__device__ inline void normalise(float (&v)[N], float mean, float gain, float shift, float slope, const T* residual, T* y) {
#pragma unroll
  for (int i = 0; i < N; ++i) v[i] = activate((v[i] - mean) * gain + shift, slope);
  if (residual != nullptr) {
    float r[N];
    read<N>(r, residual);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] += r[i];
  }
  write<N>(y, v);
}

template <typename T, int N>
__global__ void __launch_bounds__(kMaxThreads) plane_forward(Call a, Maps<T> m) {
  __shared__ float shared[kWarp];
  const int64_t plane = blockIdx.x, b = plane / a.C, c = plane % a.C;
  float v[kForwardItems], mean, squares;
  moments_of<N>(v, plane_at(m.x, m.x_at, b, c), m.x_at, a.W, 0, a.positions, shared, &mean, &squares);
  const float rstd = 1.0f / sqrtf(squares / float(a.positions) + a.eps);
  if (threadIdx.x == 0) {
    a.mean[plane] = mean;
    a.rstd[plane] = rstd;
  }
  const float gain = rstd * a.scale_of(plane), shift = a.shift_of(plane);
  const T* const residual = m.other == nullptr ? nullptr : plane_at(m.other, m.other_at, b, c);
  T* const y = plane_at(m.to, m.to_at, b, c);
  for_items<N, kForwardItems>(0, a.positions, [&](int k, int p) {
    normalise<N>(reinterpret_cast<float (&)[N]>(v[k]), mean, gain, shift, a.slope,
                 residual == nullptr ? nullptr : residual + step_to(m.other_at, p, a.W), y + step_to(m.to_at, p, a.W));
  });
}

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) chunk_moments(Call a, Maps<T> m) {
  __shared__ float shared[kWarp];
  const int64_t plane = blockIdx.x / a.chunks, b = plane / a.C, c = plane % a.C;
  const int chunk = blockIdx.x % a.chunks, first = chunk * a.chunk;
  float v[kForwardItems], mean, squares;
  moments_of<N>(v, plane_at(m.x, m.x_at, b, c), m.x_at, a.W, first, first + a.length(chunk), shared, &mean, &squares);
  if (threadIdx.x != 0) return;
  a.first[(b * a.chunks + chunk) * a.C + c] = mean;
  a.second[(b * a.chunks + chunk) * a.C + c] = squares;
}

// One warp per plane: each lane merges every 32nd chunk, then the lanes are merged.
__global__ void combine_moments(Call a, int64_t planes) {
  const int64_t plane = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (plane >= planes) return;
  const int64_t b = plane / a.C, c = plane % a.C;
  BasicMoments<float> moments;
  for (int k = threadIdx.x % kWarp; k < a.chunks; k += kWarp) {
    const int64_t part = (b * a.chunks + k) * a.C + c;
    moments.add(float(a.length(k)), a.first[part], a.second[part]);
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float count = __shfl_down_sync(0xffffffffu, moments.count, offset);
    const float mean = __shfl_down_sync(0xffffffffu, moments.mean, offset);
    const float m2 = __shfl_down_sync(0xffffffffu, moments.m2, offset);
    moments.add(count, mean, m2);
  }
  if (threadIdx.x % kWarp != 0) return;
  a.mean[plane] = moments.mean;
  a.rstd[plane] = 1.0f / sqrtf(moments.m2 / moments.count + a.eps);
}

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) chunk_forward(Call a, Maps<T> m) {
  const int64_t plane = blockIdx.x / a.chunks, b = plane / a.C, c = plane % a.C;
  const int chunk = blockIdx.x % a.chunks, first = chunk * a.chunk;
  const float mean = a.mean[plane], gain = a.rstd[plane] * a.scale_of(plane), shift = a.shift_of(plane);
  const T* const x = plane_at(m.x, m.x_at, b, c);
  const T* const residual = m.other == nullptr ? nullptr : plane_at(m.other, m.other_at, b, c);
  T* const y = plane_at(m.to, m.to_at, b, c);
  for_items<N, kForwardItems>(first, first + a.length(chunk), [&](int, int p) {
    float v[N];
    read<N>(v, x + step_to(m.x_at, p, a.W));
    normalise<N>(v, mean, gain, shift, a.slope, residual == nullptr ? nullptr : residual + step_to(m.other_at, p, a.W),
                 y + step_to(m.to_at, p, a.W));
  });
}

// With n = (x - mean)·rstd and g' = g·act'(n·scale + shift):  dshift = Σg',  dscale = Σg'n,
// dx = scale·rstd·(g' - dshift/positions - n·dscale/positions).
struct PlaneParameters {
  float mean, rstd, scale, shift, slope;
  PlaneParameters() = default;
  __device__ PlaneParameters(const Call& a, int64_t plane)
      : mean(a.mean[plane]), rstd(a.rstd[plane]), scale(a.scale_of(plane)), shift(a.shift_of(plane)), slope(a.slope) {}
  __device__ float normal(float x) const { return (x - mean) * rstd; }
  __device__ float inner(float g, float n) const { return before_activation(g, n * scale + shift, slope); }
  __device__ float dx(float inner, float n, float mean_g, float mean_gn) const {
    return (inner - mean_g - n * mean_gn) * gradient_gain(scale * rstd);
  }
};

// Loads n and g' of a thread's positions and sums them over the block.
template <int N, typename T>
__device__ inline void gradients_of(float (&n)[kBackwardItems], float (&g)[kBackwardItems], const PlaneParameters& q,
                                    const T* x, const Steps& x_at, const T* grad, const Steps& grad_at, int W, int first,
                                    int end, float* shared, float* sum_g, float* sum_gn) {
  float total = 0, along = 0;
  for_items<N, kBackwardItems>(first, end, [&](int k, int p) {
    read<N>(n + k, x + step_to(x_at, p, W));
    read<N>(g + k, grad + step_to(grad_at, p, W));
#pragma unroll
    for (int i = 0; i < N; ++i) {
      n[k + i] = q.normal(n[k + i]);
      g[k + i] = q.inner(g[k + i], n[k + i]);
      total += g[k + i];
      along += g[k + i] * n[k + i];
    }
  });
  *sum_g = block_sum(total, shared);
  *sum_gn = block_sum(along, shared);
}

template <typename T, int N>
__global__ void __launch_bounds__(kMaxThreads) plane_backward(Call a, Maps<T> m) {
  __shared__ float shared[kWarp];
  const int64_t plane = blockIdx.x, b = plane / a.C, c = plane % a.C;
  const PlaneParameters q(a, plane);
  float n[kBackwardItems], g[kBackwardItems], sum_g, sum_gn;
  gradients_of<N>(n, g, q, plane_at(m.x, m.x_at, b, c), m.x_at, plane_at(m.other, m.other_at, b, c), m.other_at, a.W, 0,
                  a.positions, shared, &sum_g, &sum_gn);
  if (threadIdx.x == 0 && a.dscale != nullptr) {
    a.dscale[plane] = sum_gn;
    a.dshift[plane] = sum_g;
  }
  const float mean_g = sum_g / float(a.positions), mean_gn = sum_gn / float(a.positions);
  T* const dx = plane_at(m.to, m.to_at, b, c);
  for_items<N, kBackwardItems>(0, a.positions, [&](int k, int p) {
#pragma unroll
    for (int i = 0; i < N; ++i) g[k + i] = q.dx(g[k + i], n[k + i], mean_g, mean_gn);
    write<N>(dx + step_to(m.to_at, p, a.W), g + k);
  });
}

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) chunk_sums(Call a, Maps<T> m) {
  __shared__ float shared[kWarp];
  const int64_t plane = blockIdx.x / a.chunks, b = plane / a.C, c = plane % a.C;
  const int chunk = blockIdx.x % a.chunks, first = chunk * a.chunk;
  float n[kBackwardItems], g[kBackwardItems], sum_g, sum_gn;
  gradients_of<N>(n, g, PlaneParameters(a, plane), plane_at(m.x, m.x_at, b, c), m.x_at, plane_at(m.other, m.other_at, b, c),
                  m.other_at, a.W, first, first + a.length(chunk), shared, &sum_g, &sum_gn);
  if (threadIdx.x != 0) return;
  a.first[(b * a.chunks + chunk) * a.C + c] = sum_g;
  a.second[(b * a.chunks + chunk) * a.C + c] = sum_gn;
}

__global__ void combine_sums(Call a, int64_t planes) {
  const int64_t plane = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (plane >= planes) return;
  const int64_t b = plane / a.C, c = plane % a.C;
  float sum_g = 0, sum_gn = 0;
  for (int k = threadIdx.x % kWarp; k < a.chunks; k += kWarp) {
    sum_g += a.first[(b * a.chunks + k) * a.C + c];
    sum_gn += a.second[(b * a.chunks + k) * a.C + c];
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    sum_g += __shfl_down_sync(0xffffffffu, sum_g, offset);
    sum_gn += __shfl_down_sync(0xffffffffu, sum_gn, offset);
  }
  if (threadIdx.x % kWarp != 0) return;
  a.mean_g[plane] = sum_g / float(a.positions);
  a.mean_gn[plane] = sum_gn / float(a.positions);
  if (a.dscale == nullptr) return;
  a.dscale[plane] = sum_gn;
  a.dshift[plane] = sum_g;
}

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) chunk_backward(Call a, Maps<T> m) {
  const int64_t plane = blockIdx.x / a.chunks, b = plane / a.C, c = plane % a.C;
  const int chunk = blockIdx.x % a.chunks, first = chunk * a.chunk;
  const PlaneParameters q(a, plane);
  const float mean_g = a.mean_g[plane], mean_gn = a.mean_gn[plane];
  const T *const x = plane_at(m.x, m.x_at, b, c), *const grad = plane_at(m.other, m.other_at, b, c);
  T* const dx = plane_at(m.to, m.to_at, b, c);
  for_items<N, kBackwardItems>(first, first + a.length(chunk), [&](int, int p) {
    float v[N], g[N];
    read<N>(v, x + step_to(m.x_at, p, a.W));
    read<N>(g, grad + step_to(m.other_at, p, a.W));
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float n = q.normal(v[i]);
      g[i] = q.dx(q.inner(g[i], n), n, mean_g, mean_gn);
    }
    write<N>(dx + step_to(m.to_at, p, a.W), g);
  });
}

// channels_last: a block takes a chunk of pixels and `lanes`·N channels of an image; a thread takes N channels of every
// rows-th pixel.
template <int N>
struct PixelThread {
  int64_t b, c, part;  // image, first channel, index of its sums
  int row, rows, first, end;
  bool inside;

  __device__ explicit PixelThread(const Call& a) {
    const int lane = threadIdx.x % a.lanes;
    const int groups = int((a.C + a.lanes * N - 1) / (a.lanes * N));
    const int chunk = blockIdx.x / groups % a.chunks;
    b = blockIdx.x / groups / a.chunks;
    c = (int64_t(blockIdx.x % groups) * a.lanes + lane) * N;
    part = (b * a.chunks + chunk) * a.C + c;
    row = threadIdx.x / a.lanes;
    rows = blockDim.x / a.lanes;
    first = chunk * a.chunk;
    end = first + a.length(chunk);
    inside = c < a.C;
  }
};

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) pixel_moments(Call a, Maps<T> m) {
  __shared__ float means[N][kChunkThreads], squares[N][kChunkThreads], counts[kChunkThreads];
  const PixelThread<N> t(a);
  float pivot[N] = {}, sum[N] = {}, squared[N] = {};
  int count = 0;
  if (t.inside) {
    const T* const x = plane_at(m.x, m.x_at, t.b, t.c);
    for (int p = t.first + t.row; p < t.end; p += t.rows, ++count) {
      float v[N];
      read<N>(v, x + p * m.x_at.stride_w);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (count == 0) pivot[i] = v[i];
        const float d = v[i] - pivot[i];
        sum[i] += d;
        squared[i] += d * d;
      }
    }
  }
  counts[threadIdx.x] = float(count);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const BasicMoments<float> part = moments_around(pivot[i], float(count), sum[i], squared[i]);
    means[i][threadIdx.x] = part.mean;
    squares[i][threadIdx.x] = part.m2;
  }
  for (int rows = t.rows / 2; rows > 0; rows /= 2) {
    __syncthreads();
    if (t.row >= rows) continue;
    const int other = threadIdx.x + rows * a.lanes;
    const float before = counts[threadIdx.x], more = counts[other];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      BasicMoments<float> moments{before, means[i][threadIdx.x], squares[i][threadIdx.x]};
      moments.add(more, means[i][other], squares[i][other]);
      means[i][threadIdx.x] = moments.mean;
      squares[i][threadIdx.x] = moments.m2;
    }
    counts[threadIdx.x] = before + more;
  }
  if (t.row != 0 || !t.inside) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    a.first[t.part + i] = means[i][threadIdx.x];
    a.second[t.part + i] = squares[i][threadIdx.x];
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) pixel_forward(Call a, Maps<T> m) {
  const PixelThread<N> t(a);
  if (!t.inside) return;
  float mean[N], gain[N], shift[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int64_t plane = t.b * a.C + t.c + i;
    mean[i] = a.mean[plane];
    gain[i] = a.rstd[plane] * a.scale_of(plane);
    shift[i] = a.shift_of(plane);
  }
  const T* const x = plane_at(m.x, m.x_at, t.b, t.c);
  const T* const residual = m.other == nullptr ? nullptr : plane_at(m.other, m.other_at, t.b, t.c);
  T* const y = plane_at(m.to, m.to_at, t.b, t.c);
  for (int p = t.first + t.row; p < t.end; p += t.rows) {
    float v[N], r[N] = {};
    read<N>(v, x + p * m.x_at.stride_w);
    if (residual != nullptr) read<N>(r, residual + p * m.other_at.stride_w);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = activate((v[i] - mean[i]) * gain[i] + shift[i], a.slope) + r[i];
    write<N>(y + p * m.to_at.stride_w, v);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) pixel_sums(Call a, Maps<T> m) {
  __shared__ float sums_g[N][kChunkThreads], sums_gn[N][kChunkThreads];
  const PixelThread<N> t(a);
  float sum_g[N] = {}, sum_gn[N] = {};
  if (t.inside) {
    const T *const x = plane_at(m.x, m.x_at, t.b, t.c), *const grad = plane_at(m.other, m.other_at, t.b, t.c);
    PlaneParameters q[N];
#pragma unroll
    for (int i = 0; i < N; ++i) q[i] = PlaneParameters(a, t.b * a.C + t.c + i);
    for (int p = t.first + t.row; p < t.end; p += t.rows) {
      float v[N], g[N];
      read<N>(v, x + p * m.x_at.stride_w);
      read<N>(g, grad + p * m.other_at.stride_w);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float n = q[i].normal(v[i]), inner = q[i].inner(g[i], n);
        sum_g[i] += inner;
        sum_gn[i] += inner * n;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    sums_g[i][threadIdx.x] = sum_g[i];
    sums_gn[i][threadIdx.x] = sum_gn[i];
  }
  for (int rows = t.rows / 2; rows > 0; rows /= 2) {
    __syncthreads();
    if (t.row >= rows) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sums_g[i][threadIdx.x] += sums_g[i][threadIdx.x + rows * a.lanes];
      sums_gn[i][threadIdx.x] += sums_gn[i][threadIdx.x + rows * a.lanes];
    }
  }
  if (t.row != 0 || !t.inside) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    a.first[t.part + i] = sums_g[i][threadIdx.x];
    a.second[t.part + i] = sums_gn[i][threadIdx.x];
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads) pixel_backward(Call a, Maps<T> m) {
  const PixelThread<N> t(a);
  if (!t.inside) return;
  const T *const x = plane_at(m.x, m.x_at, t.b, t.c), *const grad = plane_at(m.other, m.other_at, t.b, t.c);
  T* const dx = plane_at(m.to, m.to_at, t.b, t.c);
  const int64_t plane = t.b * a.C + t.c;
  PlaneParameters q[N];
  float mean_g[N], mean_gn[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    q[i] = PlaneParameters(a, plane + i);
    mean_g[i] = a.mean_g[plane + i];
    mean_gn[i] = a.mean_gn[plane + i];
  }
  for (int p = t.first + t.row; p < t.end; p += t.rows) {
    float v[N], g[N];
    read<N>(v, x + p * m.x_at.stride_w);
    read<N>(g, grad + p * m.other_at.stride_w);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float n = q[i].normal(v[i]);
      g[i] = q[i].dx(q[i].inner(g[i], n), n, mean_g[i], mean_gn[i]);
    }
    write<N>(dx + p * m.to_at.stride_w, g);
  }
}

float negative_slope_of(const std::string& activation) {
  if (activation == "none") return 1.0f;
  if (activation == "relu") return 0.0f;
  STD_TORCH_CHECK(activation == "leaky_relu", "adain: expected activation 'none', 'relu' or 'leaky_relu', got '",
                  activation, "'");
  return 0.2f;
}

std::optional<Tensor> parameter(const std::optional<Tensor>& p, const Tensor& x, const char* argument) {
  if (!p.has_value()) return std::nullopt;
  check_dim(*p, 2, "adain", argument);
  check_device(*p, x, "adain", argument);
  STD_TORCH_CHECK(p->size(0) == x.size(0) && p->size(1) == x.size(1), "adain: expected ", argument, " of shape (B, C) = (",
                  x.size(0), ", ", x.size(1), "), got (", p->size(0), ", ", p->size(1), ")");
  return as_float32(*p);
}

void check_like(const Tensor& t, const Tensor& x, const char* argument, Pad pad = {}) {
  check_dim(t, 4, "adain", argument);
  check_device(t, x, "adain", argument);
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type(), "adain: expected ", argument, " of x's dtype");
  for (int64_t d = 0; d < 4; ++d) {
    const int64_t size = x.size(d) + (d < 2 ? 0 : 2 * pad.size);
    STD_TORCH_CHECK(t.size(d) == size, "adain: expected ", argument,
                    pad.size == 0 ? " of x's shape" : " of x's padded shape", ", size ", size, " in dimension ", d,
                    ", got ", t.size(d));
  }
}

Steps steps_of(const Map& map, int64_t H, int64_t W) {
  return {map.stride_b, map.stride_c, map.stride_h, map.stride_w, H == 1 || map.stride_h == W * map.stride_w};
}

// Whether all vector accesses of n elements are whole and aligned. `neighbours` is how many elements are contiguous: the
// positions of a plane, or the channels of a pixel.
bool is_wide(const Map& map, const Steps& at, int64_t n, int64_t bytes, int64_t neighbours, bool pixel_rows) {
  if (map.data == nullptr) return true;
  const int64_t other = pixel_rows ? at.stride_w : at.stride_c, step = pixel_rows ? at.stride_c : at.stride_w;
  return step == 1 && (pixel_rows || at.linear) && neighbours % n == 0 && other % n == 0 && at.stride_b % n == 0 &&
         reinterpret_cast<uintptr_t>(map.data) % (n * bytes) == 0;
}

// The maps of one call, their split into chunks, and the kernel arguments.
template <typename T>
struct Plan {
  Call call{};
  Maps<T> maps{};
  bool pixel_rows, wide;
  int64_t B;

  Plan(const Tensor& x, const Tensor* other, Tensor& to, bool pixel_rows) : pixel_rows(pixel_rows), B(x.size(0)) {
    const int64_t C = x.size(1), H = x.size(2), W = x.size(3);
    STD_TORCH_CHECK(H * W < (int64_t(1) << 30), "adain: expected planes of less than 2^30 positions, got ", H * W);
    const auto map = [&](const Tensor& t) { return pixel_rows ? pixels_of(t) : map_of(t); };
    const Map from = map(x), second = other == nullptr ? Map{} : map(*other), result = map(to);
    maps = {static_cast<const T*>(from.data), static_cast<const T*>(second.data),
            static_cast<T*>(result.data),     steps_of(from, H, W),
            steps_of(second, H, W),           steps_of(result, H, W)};
    const int64_t neighbours = pixel_rows ? C : H * W;
    wide = is_wide(from, maps.x_at, kWide<T>, sizeof(T), neighbours, pixel_rows) &&
           is_wide(second, maps.other_at, kWide<T>, sizeof(T), neighbours, pixel_rows) &&
           is_wide(result, maps.to_at, kWide<T>, sizeof(T), neighbours, pixel_rows);
    call.C = C;
    call.positions = int(H * W);
    call.W = int(W);
  }

  int n() const { return wide ? kWide<T> : 1; }

  // For planes in one piece, with `items` elements per thread.
  bool fits(int items) const { return !pixel_rows && call.positions <= kMaxThreads * items; }
  int threads(int items) const { return int(ceil_div(ceil_div(call.positions, items), kWarp)) * kWarp; }

  // For planes in chunks. Returns the number of blocks.
  int64_t cut(int items) {
    if (!pixel_rows) {
      call.chunk = kChunkThreads * items;
      call.chunks = int(ceil_div(call.positions, call.chunk));
      return B * call.C * call.chunks;
    }
    const int64_t packs = ceil_div(call.C, n());
    call.lanes = 1;
    while (call.lanes < kWarp && call.lanes < packs) call.lanes *= 2;
    const int rows = kChunkThreads / call.lanes;
    const int64_t least = ceil_div(ceil_div(call.positions, kMaxChunks), rows);
    call.chunk = rows * int(std::max<int64_t>(kPixelsOfThread, least));
    call.chunks = int(ceil_div(call.positions, call.chunk));
    return B * call.chunks * ceil_div(packs, call.lanes);
  }
  Tensor room_for_chunks(const Tensor& x) const { return new_tensor(x, {2, B, call.chunks, call.C}, ScalarType::Float); }
  void use(Tensor& room) {
    call.first = elements<float>(room);
    call.second = call.first + B * call.chunks * call.C;
  }
};

constexpr int kCombineThreads = 128;
int64_t combine_blocks(int64_t planes) { return ceil_div(planes * kWarp, kCombineThreads); }

template <typename T>
void forward(const OnDevice& device, const Tensor& x, Plan<T>& plan) {
  if (plan.fits(kForwardItems)) {
    device.launch(plan.wide ? plane_forward<T, kWide<T>> : plane_forward<T, 1>, plan.B * plan.call.C,
                  plan.threads(kForwardItems), plan.call, plan.maps);
    return;
  }
  const int64_t blocks = plan.cut(kForwardItems), planes = plan.B * plan.call.C;
  Tensor room = plan.room_for_chunks(x);
  plan.use(room);
  const auto moments = plan.pixel_rows ? (plan.wide ? pixel_moments<T, kWide<T>> : pixel_moments<T, 1>)
                                       : (plan.wide ? chunk_moments<T, kWide<T>> : chunk_moments<T, 1>);
  const auto write = plan.pixel_rows ? (plan.wide ? pixel_forward<T, kWide<T>> : pixel_forward<T, 1>)
                                     : (plan.wide ? chunk_forward<T, kWide<T>> : chunk_forward<T, 1>);
  device.launch(moments, blocks, kChunkThreads, plan.call, plan.maps);
  device.launch(combine_moments, combine_blocks(planes), kCombineThreads, plan.call, planes);
  device.launch(write, blocks, kChunkThreads, plan.call, plan.maps);
}

template <typename T>
void backward(const OnDevice& device, const Tensor& x, Plan<T>& plan) {
  if (plan.fits(kBackwardItems)) {
    device.launch(plan.wide ? plane_backward<T, kWide<T>> : plane_backward<T, 1>, plan.B * plan.call.C,
                  plan.threads(kBackwardItems), plan.call, plan.maps);
    return;
  }
  const int64_t blocks = plan.cut(kBackwardItems), planes = plan.B * plan.call.C;
  Tensor room = plan.room_for_chunks(x), means = new_tensor(x, {2, planes}, ScalarType::Float);
  plan.use(room);
  plan.call.mean_g = elements<float>(means);
  plan.call.mean_gn = plan.call.mean_g + planes;
  const auto sums = plan.pixel_rows ? (plan.wide ? pixel_sums<T, kWide<T>> : pixel_sums<T, 1>)
                                    : (plan.wide ? chunk_sums<T, kWide<T>> : chunk_sums<T, 1>);
  const auto write = plan.pixel_rows ? (plan.wide ? pixel_backward<T, kWide<T>> : pixel_backward<T, 1>)
                                     : (plan.wide ? chunk_backward<T, kWide<T>> : chunk_backward<T, 1>);
  device.launch(sums, blocks, kChunkThreads, plan.call, plan.maps);
  device.launch(combine_sums, combine_blocks(planes), kCombineThreads, plan.call, planes);
  device.launch(write, blocks, kChunkThreads, plan.call, plan.maps);
}

std::tuple<Tensor, Tensor, Tensor> adain(Tensor x, std::optional<Tensor> scale, std::optional<Tensor> shift, double eps,
                                         std::string activation, std::optional<Tensor> residual, int64_t pad_size,
                                         bool replicate) {
  check_dim(x, 4, "adain", "x");
  const OnDevice device(x, "adain", "x");
  const float slope = negative_slope_of(activation);
  const std::optional<Tensor> gain = parameter(scale, x, "scale"), offset = parameter(shift, x, "shift");
  const Pad pad = pad_of(x, "adain", pad_size, replicate);
  const bool residual_padded = pad.size > 0 && residual.has_value() && !has_size_of(*residual, x);
  if (residual.has_value()) check_like(*residual, x, "residual", residual_padded ? pad : Pad{});
  const Tensor* const before = residual.has_value() && !residual_padded ? &*residual : nullptr;  // of the padding

  const bool channels_last = is_channels_last(x);
  Tensor y = empty_map(x, channels_last);
  Tensor mean = new_tensor(x, {x.size(0), x.size(1)}, ScalarType::Float),
         rstd = new_tensor(x, {x.size(0), x.size(1)}, ScalarType::Float);
  with_element(x, "adain", "x", [&](auto element) {
    if (x.numel() == 0) return;
    Plan<decltype(element)> plan(x, before, y, channels_last && (before == nullptr || is_channels_last(*before)));
    plan.call.scale = floats_or_null(gain);
    plan.call.shift = floats_or_null(offset);
    plan.call.mean = elements<float>(mean);
    plan.call.rstd = elements<float>(rstd);
    plan.call.eps = float(eps);
    plan.call.slope = slope;
    forward(device, x, plan);
  });
  if (pad.size > 0) {
    const Map after = residual_padded ? map_of(*residual) : Map{};
    with_element(x, "adain", "x", [&](auto element) { y = padded<decltype(element)>(device, y, pad, after); });
  }
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> adain_backward(Tensor grad, Tensor x, std::optional<Tensor> scale,
                                                  std::optional<Tensor> shift, Tensor mean, Tensor rstd,
                                                  std::string activation, int64_t pad_size, bool replicate) {
  check_dim(x, 4, "adain", "x");
  const OnDevice device(x, "adain", "x");
  const Pad pad = pad_of(x, "adain", pad_size, replicate);
  check_like(grad, x, "grad", pad);
  if (pad.size > 0)
    with_element(x, "adain", "x",
                 [&](auto element) { grad = folded<decltype(element)>(device, grad, pad, is_channels_last(grad)); });
  const float slope = negative_slope_of(activation);
  const std::optional<Tensor> gain = parameter(scale, x, "scale"), offset = parameter(shift, x, "shift");
  Tensor saved_mean = *parameter(mean, x, "mean"), saved_rstd = *parameter(rstd, x, "rstd");

  const bool channels_last = is_channels_last(x), parameters = scale.has_value() || shift.has_value();
  Tensor dx = empty_map(x, channels_last);
  const int64_t B = parameters ? x.size(0) : 0, C = x.size(1);
  Tensor dscale = new_tensor(x, {B, C}, ScalarType::Float), dshift = new_tensor(x, {B, C}, ScalarType::Float);
  if (x.numel() == 0) {  // sums over no elements
    device.fill_with_zeros(dscale.mutable_data_ptr(), dscale.numel() * sizeof(float));
    device.fill_with_zeros(dshift.mutable_data_ptr(), dshift.numel() * sizeof(float));
  }
  with_element(x, "adain", "x", [&](auto element) {
    if (x.numel() == 0) return;
    Plan<decltype(element)> plan(x, &grad, dx, channels_last && is_channels_last(grad));
    plan.call.scale = floats_or_null(gain);
    plan.call.shift = floats_or_null(offset);
    plan.call.mean = elements<float>(saved_mean);
    plan.call.rstd = elements<float>(saved_rstd);
    plan.call.slope = slope;
    plan.call.dscale = parameters ? elements<float>(dscale) : nullptr;
    plan.call.dshift = parameters ? elements<float>(dshift) : nullptr;
    backward(device, x, plan);
  });
  return {dx, dscale, dshift};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CUDA, m) {
  m.impl("_adain", TORCH_BOX(&cgcl::adain));
  m.impl("_adain_backward", TORCH_BOX(&cgcl::adain_backward));
}
