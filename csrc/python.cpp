// cgcl_fast._native: how this library was built, for `python -m cgcl_fast.info` and bug reports.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

std::vector<std::string> built_variants() {
#if defined(CGCL_X86_VARIANTS)
  return {"baseline", "avx2", "avx512"};
#else
  return {"baseline"};
#endif
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "What the native build of cgcl_fast knows of itself.";
  m.def("build_info", [] {
    pybind11::dict info;
    info["compiler"] = compiler();
    info["flags"] = CGCL_BUILD_FLAGS;
    info["torch"] = CGCL_BUILD_TORCH;
    info["abi_target"] = CGCL_ABI_TARGET;
    info["cpu_variants"] = built_variants();
    info["cuda_architectures"] = CGCL_CUDA_ARCHITECTURES;
    return info;
  });
  m.def(
      "cpu_variant", [] { return cgcl::variant_name(cgcl::cpu_variant()); },
      "The instruction set that the CPU kernels use here: baseline, avx2 or avx512.");
}
