// Runtime dispatch: which build of the CPU kernels runs on this processor.
//
// Every file in csrc/cpu/kernels is compiled once per instruction set, in a separate namespace, and exports one table of
// function pointers. Everything else (checks, allocation, threading) is compiled once, for the oldest supported processor.
#pragma once

namespace cgcl {

enum class Variant { baseline, avx2, avx512 };

// Chosen once, by the processor. CGCL_FAST_CPU_VARIANT=baseline|avx2|avx512 can lower the choice, never raise it.
Variant cpu_variant();
const char* variant_name(Variant variant);

}  // namespace cgcl

#if defined(CGCL_X86_VARIANTS)
#define CGCL_DECLARE_KERNELS(Table, name)                 \
  namespace baseline { extern const Table name##_table; } \
  namespace avx2 { extern const Table name##_table; }     \
  namespace avx512 { extern const Table name##_table; }   \
  inline const Table& name() {                            \
    switch (cpu_variant()) {                              \
      case Variant::avx512: return avx512::name##_table;  \
      case Variant::avx2: return avx2::name##_table;      \
      default: return baseline::name##_table;             \
    }                                                     \
  }
#else
#define CGCL_DECLARE_KERNELS(Table, name)                 \
  namespace baseline { extern const Table name##_table; } \
  inline const Table& name() { return baseline::name##_table; }
#endif
