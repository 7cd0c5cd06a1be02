// Host helpers of all CUDA kernels: the device and stream of their tensors, a checked launch, the element type. Only uses
// PyTorch's stable ABI and the CUDA runtime.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../common/dtype.h"
#include "../common/ids.h"
#include "../common/layout.h"
#include "../common/tensor.h"

namespace cgcl {
namespace {

// While it exists, launches and allocations are on the device of a tensor and on PyTorch's current stream there.
class OnDevice {
 public:
  OnDevice(const Tensor& tensor, const char* op, const char* argument)
      : guard_(checked(tensor, op, argument).get_device_index()) {
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) == 0, op,
                    ": no CUDA stream on device ", tensor.get_device_index());
    stream_ = static_cast<cudaStream_t>(stream);
  }

  // kernel<<<blocks, threads>>>(arguments...); does nothing for 0 blocks.
  template <class... Parameters, class... Arguments>
  void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, Arguments... arguments) const {
    if (blocks == 0) return;
    STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "cgcl_fast: too large a tensor for one launch, ", blocks, " blocks");
    kernel<<<dim3(unsigned(blocks)), dim3(unsigned(threads)), 0, stream_>>>(Parameters(arguments)...);
    check(cudaGetLastError(), "a kernel did not start");
  }

  void fill_with_zeros(void* data, size_t bytes) const {
    if (bytes > 0) check(cudaMemsetAsync(data, 0, bytes, stream_), "memory was not filled");
  }

 private:
  static const Tensor& checked(const Tensor& tensor, const char* op, const char* argument) {
    STD_TORCH_CHECK(tensor.is_cuda(), op, ": expected ", argument, " on a CUDA device");
    return tensor;
  }
  static void check(cudaError_t error, const char* what) {
    STD_TORCH_CHECK(error == cudaSuccess, "cgcl_fast: ", what, ": ", cudaGetErrorString(error));
  }

  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

// Every tensor must be on the device of the first: a kernel would read foreign memory.
inline void check_device(const Tensor& tensor, const Tensor& first, const char* op, const char* argument) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == first.get_device_index(), op, ": expected ", argument,
                  " on CUDA device ", first.get_device_index());
}
inline void check_device(const std::optional<Tensor>& tensor, const Tensor& first, const char* op, const char* argument) {
  if (tensor.has_value()) check_device(*tensor, first, op, argument);
}

// body(element) with a value of tensor's element type.
template <class F>
void with_element(const Tensor& tensor, const char* op, const char* argument, const F& body) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return body(float{});
    case ScalarType::Half: return body(f16{});
    case ScalarType::BFloat16: return body(bf16{});
    default:
      STD_TORCH_CHECK(false, op, ": expected ", argument,
                      " of dtype float32, float16 or bfloat16 for the CUDA kernel; other dtypes take the reference");
  }
}

template <typename T>
const T* elements(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <typename T>
T* elements(Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
inline const float* floats_or_null(const std::optional<Tensor>& t) { return t.has_value() ? elements<float>(*t) : nullptr; }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace cgcl
