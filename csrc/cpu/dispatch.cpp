#include "dispatch.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace cgcl {
namespace {

Variant best_supported() {
#if defined(CGCL_X86_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return Variant::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Variant::avx2;
#endif
  return Variant::baseline;
}

Variant choose() {
  const Variant best = best_supported();
  const char* wanted = std::getenv("CGCL_FAST_CPU_VARIANT");
  if (wanted == nullptr) return best;
  for (Variant variant : {Variant::baseline, Variant::avx2, Variant::avx512})
    if (std::strcmp(wanted, variant_name(variant)) == 0) return variant < best ? variant : best;
  return best;
}

}  // namespace

const char* variant_name(Variant variant) {
  switch (variant) {
    case Variant::avx512: return "avx512";
    case Variant::avx2: return "avx2";
    default: return "baseline";
  }
}

Variant cpu_variant() {
  static const Variant variant = choose();
  return variant;
}

}  // namespace cgcl
