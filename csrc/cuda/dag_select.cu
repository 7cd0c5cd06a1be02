// cgcl_fast::_dag_select in CUDA C++, one block per image. Bilinear scores at the candidates only; a radix search finds the
// scores that bound the lowest and the highest part; only the chosen candidates are sorted.
#include "../common/bilinear.h"
#include "block.cuh"
#include "launch.h"

namespace cgcl {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBins = 256;  // of one digit of a rank
constexpr int kInSharedMemory = 4096;  // ranks, or chosen candidates

struct SelectCall {
  Ids candidates;
  int64_t stride_b, stride_h, stride_w, h, w, H, W;
  int32_t count, lowest, highest;  // candidates per image, how many to choose at each end
  uint32_t* ranks;  // (B, count), null if they fit into shared memory
  uint64_t* chosen;  // (B, lowest + highest), null if they fit into shared memory
  int64_t* out;
};

// Where one end of the order stops: it has all candidates below `rank`, and `ties` of those equal to it.
struct Threshold {
  uint32_t rank;
  int32_t ties;
};

// The rank of the wanted-th candidate (1 <= wanted <= count) in ascending order, found digit by digit.
__device__ Threshold find_threshold(const uint32_t* ranks, int32_t count, int32_t wanted, uint32_t* bins,
                                    Threshold* shared) {
  uint32_t prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < kBins) bins[threadIdx.x] = 0;
    __syncthreads();
    for (int32_t k = threadIdx.x; k < count; k += kThreads)
      if ((ranks[k] & mask) == prefix) atomicAdd(&bins[ranks[k] >> shift & (kBins - 1)], 1u);  // of integers, so exact
    __syncthreads();
    if (threadIdx.x < kWarp) {  // a warp adds up 8 bins a lane
      uint32_t own = 0;
      for (int i = 0; i < kBins / kWarp; ++i) own += bins[threadIdx.x * (kBins / kWarp) + i];
      uint32_t before = own;
      for (int offset = 1; offset < kWarp; offset *= 2) {
        const uint32_t other = __shfl_up_sync(0xffffffffu, before, offset);
        if (int(threadIdx.x) >= offset) before += other;
      }
      before -= own;
      if (before < uint32_t(wanted) && uint32_t(wanted) <= before + own) {
        int bin = threadIdx.x * (kBins / kWarp);
        while (before + bins[bin] < uint32_t(wanted)) before += bins[bin++];
        *shared = {prefix | uint32_t(bin) << shift, int32_t(wanted - before)};
      }
    }
    __syncthreads();
    prefix = shared->rank;
    wanted = shared->ties;
    mask |= uint32_t(kBins - 1) << shift;
  }
  return {prefix, wanted};
}

// How many threads before this one have `yes` set, and how many of the block do.
__device__ int count_before(bool yes, int32_t* warps, int* total) {
  const unsigned ballot = __ballot_sync(0xffffffffu, yes);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  __syncthreads();  // wait until an earlier count has been read
  if (lane == 0) warps[warp] = __popc(ballot);
  __syncthreads();
  int before = 0, all = 0;
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp) before = all;
    all += warps[i];
  }
  *total = all;
  return before + __popc(ballot & ((1u << lane) - 1u));
}

template <typename T>
__global__ void __launch_bounds__(kThreads) select(const T* score, SelectCall a) {
  __shared__ uint32_t shared_ranks[kInSharedMemory];
  __shared__ uint64_t shared_chosen[kInSharedMemory / 2];
  __shared__ uint32_t bins[kBins];
  __shared__ int32_t warps[kWarps];
  __shared__ Threshold threshold;
  const int64_t b = blockIdx.x, P = a.lowest + a.highest;
  uint32_t* const ranks = a.ranks == nullptr ? shared_ranks : a.ranks + b * a.count;
  uint64_t* const chosen = a.chosen == nullptr ? shared_chosen : a.chosen + b * P;
  const T* const image = score + b * a.stride_b;
  const int64_t positions = a.H * a.W;
  for (int32_t k = threadIdx.x; k < a.count; k += kThreads) {
    const int64_t id = a.candidates.at(b, k);
    uint32_t rank = 0xffffffffu;  // out of range: ranked as NaN, without a read
    if (uint64_t(id) < uint64_t(positions))
      rank = rank_of(bilinear(image, tap_of(id / a.W, a.H, a.h, a.stride_h), tap_of(id % a.W, a.W, a.w, a.stride_w)));
    ranks[k] = rank;
  }
  __syncthreads();

  // Candidates are ordered by ascending score, ties in their given order. The lowest part are the first `lowest`, the highest
  // part those from count - highest on.
  const Threshold low = a.lowest > 0 ? find_threshold(ranks, a.count, a.lowest, bins, &threshold) : Threshold{0, 0};
  const int32_t skipped = a.count - a.highest;
  const Threshold high =
      a.highest > 0 && skipped > 0 ? find_threshold(ranks, a.count, skipped, bins, &threshold) : Threshold{0, 0};
  int32_t low_ties = 0, high_ties = 0, low_count = 0, high_count = 0;  // the same in all threads
  for (int32_t first = 0; first < a.count; first += kThreads) {
    const int32_t k = first + threadIdx.x;
    const bool here = k < a.count;
    const uint32_t rank = here ? ranks[k] : 0;
    int total;
    const bool low_tie = here && rank == low.rank, high_tie = here && rank == high.rank;
    const int low_before = low_ties + count_before(low_tie, warps, &total);
    low_ties += total;
    const int high_before = high_ties + count_before(high_tie, warps, &total);
    high_ties += total;
    const bool is_low = here && a.lowest > 0 && (rank < low.rank || (low_tie && low_before < low.ties));
    const bool is_high =
        here && a.highest > 0 && (skipped == 0 || rank > high.rank || (high_tie && high_before >= high.ties));
    const uint64_t item = uint64_t(rank) << 32 | uint32_t(k);
    const int low_slot = low_count + count_before(is_low, warps, &total);
    low_count += total;
    const int high_slot = high_count + count_before(is_high, warps, &total);
    high_count += total;
    if (is_low) chosen[low_slot] = item;
    if (is_high) chosen[a.lowest + high_slot] = item;
  }
  __syncthreads();

  // A candidate's place is the number of those in its part that come before it; no two are equal.
  for (int32_t p = threadIdx.x; p < P; p += kThreads) {
    const uint64_t item = chosen[p];
    const int32_t begin = p < a.lowest ? 0 : a.lowest, end = p < a.lowest ? a.lowest : int32_t(P);
    int32_t place = begin;
    for (int32_t other = begin; other < end; ++other) place += chosen[other] < item ? 1 : 0;
    a.out[b * P + place] = a.candidates.at(b, int32_t(item & 0xffffffffu));
  }
}

Tensor dag_select(Tensor score, Tensor candidates, int64_t height, int64_t width, int64_t num_patches, int64_t first) {
  const char* op = "dag_select";
  check_dim(score, 4, op, "score");
  const OnDevice device(score, op, "score");
  check_device(candidates, score, op, "candidates");
  const int64_t B = score.size(0);
  STD_TORCH_CHECK(score.size(1) == 1 && score.size(2) > 0 && score.size(3) > 0, op,
                  ": expected score of shape (B, 1, h, w) with h, w >= 1");
  const Ids rows(candidates, B, op, "candidates");
  STD_TORCH_CHECK(0 <= first && first <= num_patches && num_patches <= rows.count && rows.count < (int64_t(1) << 31), op,
                  ": expected 0 <= first <= num_patches <= number of candidates, got ", first, ", ", num_patches, " and ",
                  rows.count);
  Tensor out = new_tensor(score, {B, num_patches}, ScalarType::Long);
  if (out.numel() == 0) return out;
  const bool ranks_fit = rows.count <= kInSharedMemory, chosen_fit = num_patches <= kInSharedMemory / 2;
  Tensor ranks = new_tensor(score, {ranks_fit ? 0 : B, rows.count}, ScalarType::Int);
  Tensor chosen = new_tensor(score, {chosen_fit ? 0 : B, num_patches}, ScalarType::Long);
  with_element(score, op, "score", [&](auto element) {
    using T = decltype(element);
    const SelectCall call{rows,
                          score.stride(0),
                          score.stride(2),
                          score.stride(3),
                          score.size(2),
                          score.size(3),
                          height,
                          width,
                          int32_t(rows.count),
                          int32_t(first),
                          int32_t(num_patches - first),
                          ranks_fit ? nullptr : static_cast<uint32_t*>(ranks.mutable_data_ptr()),
                          chosen_fit ? nullptr : static_cast<uint64_t*>(chosen.mutable_data_ptr()),
                          static_cast<int64_t*>(out.mutable_data_ptr())};
    device.launch(select<T>, B, kThreads, elements<T>(score), call);
  });
  return out;
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CUDA, m) { m.impl("_dag_select", TORCH_BOX(&cgcl::dag_select)); }
