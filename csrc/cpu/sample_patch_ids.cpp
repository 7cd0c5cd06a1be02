// cgcl_fast::_sample_patch_ids on the CPU: distinct uniform positions from one 63-bit key a row.
//
// Draw t of a row is a hash of (key, t): a row's only state is its key, and the Python reference
// (cgcl_fast/ops/sample_patch_ids.py) expands the same keys to the same positions.
#include <cstdint>
#include <vector>

#include "tensor.h"

namespace cgcl {
namespace {

// 63 random bits: splitmix64's finaliser on the t-th step from the key (Steele et al. 2014).
inline uint64_t draw(uint64_t key, uint64_t t) {
  uint64_t z = key + (t + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) & 0x7fffffffffffffffu;
}

int log2_ceil(int64_t n) {
  int bits = 0;
  while ((int64_t(1) << bits) < n) ++bits;
  return bits;
}

// For few of many positions: a stream of draws, of which the first `count` distinct ones are taken.
struct Stream {
  uint64_t key, positions;
  int64_t draws, t = 0;

  Stream(uint64_t key, int64_t positions, int64_t count) : key(key), positions(positions), draws(4 * count + 128) {}

  // The stream ends in 0, 1, 2, ..., so that it always holds enough distinct positions, whatever the draws are.
  int64_t next() {
    const int64_t id = t < draws ? int64_t(draw(key, t) % positions) : t - draws;
    ++t;
    return id;
  }
};

// A bit per position marks what came before. The loop has no branch on it, which no processor could predict.
void first_distinct_by_bits(uint64_t key, int64_t positions, int64_t count, std::vector<uint64_t>& seen, int64_t* ids) {
  seen.assign((positions + 63) / 64, 0);
  Stream stream(key, positions, count);
  for (int64_t distinct = 0; distinct < count;) {
    const int64_t id = stream.next();
    uint64_t& word = seen[id / 64];
    const uint64_t bit = uint64_t(1) << (id % 64);
    ids[distinct] = id;
    distinct += (word & bit) == 0;
    word |= bit;
  }
}

// The same with a sparse open-addressing hash table, where a bit per position would take too much memory.
void first_distinct_by_hash(uint64_t key, int64_t positions, int64_t count, std::vector<uint64_t>& table, int64_t* ids) {
  const uint64_t mask = (uint64_t(1) << (log2_ceil(count) + 3)) - 1, none = ~uint64_t(0);
  table.assign(mask + 1, none);
  Stream stream(key, positions, count);
  for (int64_t distinct = 0; distinct < count;) {
    const uint64_t id = uint64_t(stream.next());
    uint64_t slot = id & mask;
    while (table[slot] != none && table[slot] != id) slot = (slot + 1) & mask;
    if (table[slot] == id) continue;
    table[slot] = id;
    ids[distinct++] = int64_t(id);
  }
}

struct Ranked {
  uint64_t rank;
  int64_t id;
};

// For most of the positions: sorts them all by their draws, into small buckets and then by insertion within each.
void smallest_draws(uint64_t key, int64_t positions, int64_t count, std::vector<uint64_t>& buckets,
                    std::vector<Ranked>& sorted, int64_t* ids) {
  const int bits = log2_ceil(positions) + 2, shift = 63 - bits;
  buckets.assign((size_t(1) << bits) + 1, 0);
  sorted.resize(positions);
  for (int64_t i = 0; i < positions; ++i) ++buckets[(draw(key, i) >> shift) + 1];
  for (size_t k = 1; k < buckets.size(); ++k) buckets[k] += buckets[k - 1];
  for (int64_t i = 0; i < positions; ++i) {
    const uint64_t rank = draw(key, i);
    sorted[buckets[rank >> shift]++] = {rank, i};
  }
  for (int64_t i = 1; i < positions; ++i) {
    const Ranked item = sorted[i];
    int64_t j = i;
    for (; j > 0 && item.rank < sorted[j - 1].rank; --j) sorted[j] = sorted[j - 1];
    sorted[j] = item;
  }
  for (int64_t i = 0; i < count; ++i) ids[i] = sorted[i].id;
}

Tensor sample_patch_ids(Tensor keys, int64_t num_positions, int64_t num_patches) {
  STD_TORCH_CHECK(keys.scalar_type() == ScalarType::Long && keys.dim() <= 1,
                  "sample_patch_ids: expected keys int64 of shape () or (B,)");
  STD_TORCH_CHECK(num_patches >= 0 && num_patches <= num_positions,
                  "sample_patch_ids: expected 0 <= num_patches <= num_positions, got ", num_patches, " and ",
                  num_positions);
  const bool one = keys.dim() == 0;
  const int64_t rows = one ? 1 : keys.size(0), stride = one ? 0 : keys.stride(0);
  Tensor ids =
      one ? new_tensor(keys, {num_patches}, ScalarType::Long) : new_tensor(keys, {rows, num_patches}, ScalarType::Long);
  if (rows == 0 || num_patches == 0) return ids;
  const int64_t* key = static_cast<const int64_t*>(keys.const_data_ptr());
  int64_t* out = static_cast<int64_t*>(ids.mutable_data_ptr());
  const bool dense = num_positions / 2 < num_patches;
  parallel(rows, 8 * (dense ? num_positions : num_patches), [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> scratch;
    std::vector<Ranked> sorted;
    for (int64_t b = begin; b < end; ++b) {
      const uint64_t row_key = uint64_t(key[b * stride]);
      int64_t* const row = out + b * num_patches;
      if (dense) {
        smallest_draws(row_key, num_positions, num_patches, scratch, sorted, row);
      } else if (num_positions / 256 <= num_patches) {
        first_distinct_by_bits(row_key, num_positions, num_patches, scratch, row);
      } else {
        first_distinct_by_hash(row_key, num_positions, num_patches, scratch, row);
      }
    }
  });
  return ids;
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) { m.impl("_sample_patch_ids", TORCH_BOX(&cgcl::sample_patch_ids)); }
