// cgcl_fast::_dag_select on the CPU: bilinear scores at the candidates only, then a stable radix sort.
#include <cstdint>
#include <vector>

#include "../common/bilinear.h"
#include "ids.h"

namespace cgcl {
namespace {

// Interpolation taps of all positions along one axis.
std::vector<Tap> taps(int64_t length, int64_t size, int64_t stride) {
  std::vector<Tap> all(length);
  for (int64_t i = 0; i < length; ++i) all[i] = tap_of(i, length, size, stride);
  return all;
}

struct Item {
  uint32_t rank, candidate;
};

// Stable radix sort; `items` holds the result, `other` is scratch of the same size.
void sort_by_rank(std::vector<Item>& items, std::vector<Item>& other) {
  uint32_t counts[4][256] = {};
  for (const Item& item : items)
    for (int digit = 0; digit < 4; ++digit) ++counts[digit][item.rank >> (8 * digit) & 255];
  for (int digit = 0; digit < 4; ++digit) {
    uint32_t* const count = counts[digit];
    if (count[items[0].rank >> (8 * digit) & 255] == items.size()) continue;  // all equal in this digit
    for (uint32_t k = 0, total = 0; k < 256; ++k) {
      const uint32_t n = count[k];
      count[k] = total;
      total += n;
    }
    for (const Item& item : items) other[count[item.rank >> (8 * digit) & 255]++] = item;
    items.swap(other);
  }
}

template <typename T>
void select(const Tensor& score, const Ids& candidates, int64_t H, int64_t W, int64_t first, Tensor& out) {
  const int64_t B = score.size(0), h = score.size(2), w = score.size(3), K = candidates.count, P = out.size(1);
  const T* const map = static_cast<const T*>(score.const_data_ptr());
  const int64_t stride_b = score.stride(0);
  int64_t* const ids = static_cast<int64_t*>(out.mutable_data_ptr());
  const std::vector<Tap> rows = taps(H, h, score.stride(2)), columns = taps(W, w, score.stride(3));
  parallel(B, 16 * K, [&](int64_t begin, int64_t end) {
    std::vector<Item> items(K), other(K);
    for (int64_t b = begin; b < end; ++b) {
      const T* const image = map + b * stride_b;
      for (int64_t k = 0; k < K; ++k) {
        const int64_t id = candidates.at(b, k);
        items[k] = {rank_of(bilinear(image, rows[id / W], columns[id % W])), uint32_t(k)};
      }
      sort_by_rank(items, other);
      for (int64_t p = 0; p < P; ++p) ids[b * P + p] = candidates.at(b, items[p < first ? p : K - P + p].candidate);
    }
  });
}

Tensor dag_select(Tensor score, Tensor candidates, int64_t height, int64_t width, int64_t num_patches, int64_t first) {
  check_dim(score, 4, "dag_select", "score");
  const Dtype dtype = dtype_of(score, "dag_select", "score");
  const int64_t B = score.size(0);
  STD_TORCH_CHECK(score.size(1) == 1 && score.size(2) > 0 && score.size(3) > 0,
                  "dag_select: expected score of shape (B, 1, h, w) with h, w >= 1");
  const Ids rows(candidates, B, "dag_select", "candidates");
  STD_TORCH_CHECK(0 <= first && first <= num_patches && num_patches <= rows.count && rows.count < (int64_t(1) << 32),
                  "dag_select: expected 0 <= first <= num_patches <= number of candidates, got ", first, ", ", num_patches,
                  " and ", rows.count);
  check_ids(rows, B, height * width, "dag_select", "candidates");
  Tensor out = new_tensor(score, {B, num_patches}, ScalarType::Long);
  if (out.numel() > 0) (dtype == Dtype::float32 ? select<float> : select<bf16>)(score, rows, height, width, first, out);
  return out;
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) { m.impl("_dag_select", TORCH_BOX(&cgcl::dag_select)); }
