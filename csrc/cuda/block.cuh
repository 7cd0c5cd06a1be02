// Inside a kernel: vectors of elements, sums over a block.
#pragma once

#include "../common/dtype.h"
#include "../common/map.h"

namespace cgcl {
namespace {

constexpr int kWarp = 32;

// N neighbouring elements, read and written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
// How many elements are 16 bytes, the widest access of a thread.
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

// A plane of a map. `linear`: the step from each position to the next is stride_w, which spares a division.
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

// The sum over all threads of a block, in a fixed order; every thread gets it. `shared` has a float for each warp.
__device__ inline float block_sum(float value, float* shared) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  const int warps = int(blockDim.x) / kWarp;
  if (warps == 1) return value;
  __syncthreads();  // an earlier sum has been read
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = threadIdx.x % kWarp < warps ? shared[threadIdx.x % kWarp] : 0.0f;
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

}  // namespace
}  // namespace cgcl
