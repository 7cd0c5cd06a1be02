#include "page_cache.h"

#include <cstdlib>
#include <mutex>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cgcl {
namespace {

constexpr int64_t kHugePage = int64_t(1) << 21;
[[maybe_unused]] constexpr int64_t kLarge = int64_t(1) << 25;

#if defined(MADV_HUGEPAGE) && defined(MADV_FREE)

struct Block {
  void* data = nullptr;
  int64_t bytes = 0;
};

struct Kept {
  std::mutex mutex;
  Block newer, older;
};

Kept& kept() {
  static Kept& instance = *new Kept;  // never destroyed: tensors may outlive the library's statics
  return instance;
}

void* take(int64_t bytes) {
  {
    Kept& k = kept();
    const std::lock_guard<std::mutex> lock(k.mutex);
    if (k.newer.bytes == bytes) return std::exchange(k.newer, std::exchange(k.older, Block{})).data;
    if (k.older.bytes == bytes) return std::exchange(k.older, Block{}).data;
  }
  void* data = nullptr;
  if (posix_memalign(&data, kHugePage, bytes) != 0) return nullptr;
  madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

void keep(Block block) {
  madvise(block.data, block.bytes, MADV_FREE);
  {
    Kept& k = kept();
    const std::lock_guard<std::mutex> lock(k.mutex);
    block = std::exchange(k.older, std::exchange(k.newer, block));
  }
  std::free(block.data);
}

#endif

}  // namespace

Tensor empty_large_map(int64_t B, int64_t C, int64_t H, int64_t W, ScalarType type, bool channels_last) {
  using torch::headeronly::IntHeaderOnlyArrayRef;
  using torch::headeronly::MemoryFormat;
  const int64_t sizes[] = {B, C, H, W};
#if defined(MADV_HUGEPAGE) && defined(MADV_FREE)
  const int64_t element = type == ScalarType::Float ? 4 : 2;
  const int64_t bytes = (B * C * H * W * element + kHugePage - 1) / kHugePage * kHugePage;
  if (bytes >= kLarge) {
    const int64_t plane[] = {C * H * W, H * W, W, 1}, pixel[] = {C * H * W, 1, W * C, C};
    if (void* const block = take(bytes))
      return torch::stable::from_blob(block, IntHeaderOnlyArrayRef(sizes, 4),
                                      IntHeaderOnlyArrayRef(channels_last ? pixel : plane, 4),
                                      torch::stable::Device(torch::headeronly::DeviceType::CPU), type,
                                      [bytes](void* data) { keep({data, bytes}); });
  }
#endif
  return torch::stable::empty(IntHeaderOnlyArrayRef(sizes, 4), type, std::nullopt, std::nullopt, std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace cgcl
