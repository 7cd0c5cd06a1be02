// cgcl_fast::_gather_patches and its gradient in CUDA C++. An id out of range never accesses memory: reading it gives NaN,
// writing to it is dropped.
#include "block.cuh"
#include "launch.h"

namespace cgcl {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 132 * 64;  // with more work than this, each thread loops

struct GatherCall {
  int64_t patches, channels, positions, W;  // patches of all images; channels in units
  Steps at;                                 // in units
  Ids ids;
};

// A unit is what a thread moves at once: an element, or 16 bytes of contiguous channels.
template <typename Unit>
__global__ void __launch_bounds__(kThreads) gather(const Unit* features, Unit* out, Unit nan, GatherCall a) {
  const int64_t count = a.patches * a.channels;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int64_t patch = i / a.channels, c = i - patch * a.channels;
    const int64_t b = patch / a.ids.count, id = a.ids.at(b, patch - b * a.ids.count);
    const bool inside = uint64_t(id) < uint64_t(a.positions);
    const int64_t step = a.at.linear ? id * a.at.stride_w : id / a.W * a.at.stride_h + id % a.W * a.at.stride_w;
    out[i] = inside ? plane_at(features, a.at, b, c)[step] : nan;
  }
}

// For repeated ids, whose gradients are added in the order of the patches. The first patch of an id owns the position;
// `next` leads from it to the others.
struct Link {
  int32_t next;   // -1 after the last
  int32_t owner;  // 0 also for ids out of range
};

__global__ void __launch_bounds__(kThreads) link_patches(Ids ids, int64_t positions, Link* links) {
  __shared__ int64_t tile[kThreads];
  const int64_t tiles = (ids.count + kThreads - 1) / kThreads;
  const int64_t row = blockIdx.x / tiles, mine = blockIdx.x % tiles * kThreads + threadIdx.x;
  const int64_t id = mine < ids.count ? ids.at(row, mine) : -1;
  Link link{-1, uint64_t(id) < uint64_t(positions) ? 1 : 0};
  for (int64_t first = 0; first < ids.count; first += kThreads) {
    __syncthreads();
    if (first + threadIdx.x < ids.count) tile[threadIdx.x] = ids.at(row, first + threadIdx.x);
    __syncthreads();
    const int size = int(min(int64_t(kThreads), ids.count - first));
    for (int k = 0; k < size; ++k) {
      if (tile[k] != id) continue;
      if (first + k < mine) link.owner = 0;
      if (first + k > mine && link.next < 0) link.next = int32_t(first + k);
    }
  }
  if (mine < ids.count) links[row * ids.count + mine] = link;
}

template <typename T>
struct ScatterCall {
  const T* grad;
  T* to;
  const Link* links;
  int64_t patches, channels, W;
  int64_t grad_b, grad_p, grad_c;
  Steps at;
  Ids ids;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) scatter(ScatterCall<T> a) {
  const int64_t count = a.patches * a.channels;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const int64_t patch = i / a.channels, c = i - patch * a.channels, b = patch / a.ids.count;
    const int64_t p = patch - b * a.ids.count;
    const Link* const row = a.links + (a.ids.stride_b == 0 ? 0 : b * a.ids.count);
    if (row[p].owner == 0) continue;
    const T* const grad = a.grad + b * a.grad_b + c * a.grad_c;
    float sum = to_float(grad[p * a.grad_p]);
    for (int next = row[p].next; next >= 0; next = row[next].next) sum += to_float(grad[next * a.grad_p]);
    from_float(plane_at(a.to, a.at, b, c) + a.ids.at(b, p) * a.at.stride_w, sum);
  }
}

int64_t blocks_for(int64_t count) { return std::min<int64_t>(ceil_div(count, kThreads), kMaxBlocks); }

struct alignas(16) Unit16 {
  uint32_t v[4];
};

Tensor gather_patches(Tensor features, Tensor ids) {
  const char* op = "gather_patches";
  check_dim(features, 4, op, "features");
  const OnDevice device(features, op, "features");
  check_device(ids, features, op, "ids");
  const int64_t B = features.size(0), C = features.size(1), H = features.size(2), W = features.size(3);
  const Ids rows(ids, B, op, "ids");
  Tensor out = new_tensor(features, {B, rows.count, C}, features.scalar_type());
  with_element(features, op, "features", [&](auto element) {
    using T = decltype(element);
    if (out.numel() == 0) return;
    T nan;
    from_float(&nan, float_of(0x7fc00000u));
    GatherCall call{B * rows.count,
                    C,
                    H * W,
                    W,
                    {features.stride(0), features.stride(1), features.stride(2), features.stride(3),
                     H == 1 || features.stride(2) == W * features.stride(3)},
                    rows};
    const T* const from = elements<T>(features);
    const int64_t n = kWide<T>;
    const Steps& at = call.at;
    if (at.stride_c == 1 && C % n == 0 && at.stride_b % n == 0 && at.stride_h % n == 0 && at.stride_w % n == 0 &&
        reinterpret_cast<uintptr_t>(from) % sizeof(Unit16) == 0) {
      Unit16 wide_nan;
      for (int i = 0; i < kWide<T>; ++i) memcpy(reinterpret_cast<char*>(&wide_nan) + i * sizeof(T), &nan, sizeof(T));
      call.channels /= n;
      call.at = {at.stride_b / n, 1, at.stride_h / n, at.stride_w / n, at.linear};
      device.launch(gather<Unit16>, blocks_for(out.numel() / n), kThreads, reinterpret_cast<const Unit16*>(from),
                    reinterpret_cast<Unit16*>(elements<T>(out)), wide_nan, call);
    } else {
      device.launch(gather<T>, blocks_for(out.numel()), kThreads, from, elements<T>(out), nan, call);
    }
  });
  return out;
}

Tensor gather_patches_backward(Tensor grad, Tensor ids, int64_t channels, int64_t height, int64_t width,
                               bool channels_last) {
  const char* op = "gather_patches";
  check_dim(grad, 3, op, "grad");
  const OnDevice device(grad, op, "grad");
  check_device(ids, grad, op, "ids");
  const int64_t B = grad.size(0);
  const Ids rows(ids, B, op, "ids");
  STD_TORCH_CHECK(grad.size(1) == rows.count && grad.size(2) == channels && channels >= 0 && height >= 0 && width >= 0, op,
                  ": expected grad of shape (B, P, C) = (", B, ", ", rows.count, ", ", channels, "), got (", B, ", ",
                  grad.size(1), ", ", grad.size(2), ")");
  STD_TORCH_CHECK(rows.count < (int64_t(1) << 31), op, ": expected less than 2^31 ids an image, got ", rows.count);
  Tensor map = empty_map(grad, {B, channels, height, width}, channels_last);
  with_element(grad, op, "grad", [&](auto element) {
    using T = decltype(element);
    device.fill_with_zeros(map.mutable_data_ptr(), map.numel() * sizeof(T));
    if (map.numel() == 0 || grad.numel() == 0) return;
    const int64_t sets = rows.stride_b == 0 ? 1 : B;
    Tensor links = new_tensor(grad, {sets, rows.count, 2}, ScalarType::Int);
    Link* const chain = static_cast<Link*>(links.mutable_data_ptr());
    device.launch(link_patches, sets * ceil_div(rows.count, kThreads), kThreads, rows, height * width, chain);
    const int64_t positions = height * width;
    const Steps at = channels_last ? Steps{channels * positions, 1, width * channels, channels, true}
                                   : Steps{channels * positions, positions, width, 1, true};
    const ScatterCall<T> call{elements<T>(grad),
                              elements<T>(map),
                              chain,
                              B * rows.count,
                              channels,
                              width,
                              grad.stride(0),
                              grad.stride(1),
                              grad.stride(2),
                              at,
                              rows};
    device.launch(scatter<T>, blocks_for(grad.numel()), kThreads, call);
  });
  return map;
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CUDA, m) {
  m.impl("_gather_patches", TORCH_BOX(&cgcl::gather_patches));
  m.impl("_gather_patches_backward", TORCH_BOX(&cgcl::gather_patches_backward));
}
