// Device helpers: vectors of elements, sums over a block.
#pragma once

#include "../common/dtype.h"
#include "../common/strided_map.h"

namespace cgcl {
namespace {

constexpr int kWarp = 32;

// N contiguous elements, read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
// How many elements fill 16 bytes, a thread's widest access.
template <typename T>
constexpr int kWide = 16 / int(sizeof(T));

template <int N, typename T>
__device__ inline void read(float* to, const T* from) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = to_float(pack.v[i]);
}
template <int N, typename T>
__device__ inline void write(T* to, const float* from) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) from_float(&pack.v[i], from[i]);
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Steps within a plane of a map. `linear`: all consecutive positions are stride_w apart, which saves a division.
struct Steps {
  int64_t stride_b, stride_c, stride_h, stride_w;
  bool linear;
};

template <typename T>
__device__ inline T* plane_at(T* data, const Steps& s, int64_t b, int64_t c) {
  return data + b * s.stride_b + c * s.stride_c;
}
__device__ inline int64_t step_to(const Steps& s, int p, int W) {
  return s.linear ? p * s.stride_w : p / W * s.stride_h + p % W * s.stride_w;
}

// The sum over all threads of a block, in a fixed order, returned to every thread. `shared` has one float per warp.
__device__ inline float block_sum(float value, float* shared) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  const int warps = int(blockDim.x) / kWarp;
  if (warps == 1) return value;
  __syncthreads();  // wait until an earlier sum has been read
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = threadIdx.x % kWarp < warps ? shared[threadIdx.x % kWarp] : 0.0f;
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

}  // namespace
}  // namespace cgcl
