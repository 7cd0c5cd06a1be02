// Page faults cost more than the stores where a large result lies in memory that the allocator has just mapped.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cgcl {

// Ask for 2 MiB pages in [data, data + bytes) before it is written for the first time. A hint: where the system has none,
// or uses them anyway, nothing changes.
inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(1) << 21;
  if (bytes < int64_t(2 * kPage)) return;
  const uintptr_t begin = (uintptr_t(data) + kPage - 1) / kPage * kPage, end = (uintptr_t(data) + uintptr_t(bytes)) / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace cgcl
