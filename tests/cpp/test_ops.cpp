// The ops through PyTorch's dispatcher, as a C++ program calls them, against numbers worked by hand.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/stack.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace {

std::vector<c10::IValue> call(const char* op, std::vector<c10::IValue> arguments) {
  c10::Dispatcher::singleton().findSchemaOrThrow((std::string("cgcl_fast::") + op).c_str(), "").callBoxed(arguments);
  return arguments;
}

void expect_values(const char* what, const at::Tensor& actual, const at::Tensor& expected, double tolerance = 1e-5) {
  expect(what, actual.sizes() == expected.sizes());
  if (actual.sizes() == expected.sizes() && actual.numel() > 0)
    expect_near(what, (actual.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>(), 0, tolerance);
}

// One plane 1 3 / 5 7: mean 4, variance 5. scale 2, shift 1, then relu.
void test_adain() {
  const at::Tensor x = at::tensor({1.f, 3.f, 5.f, 7.f}).view({1, 1, 2, 2});
  const at::Tensor scale = at::full({1, 1}, 2.f), shift = at::full({1, 1}, 1.f);
  const auto result = call("_adain", {x, scale, shift, 0.0, "relu", c10::IValue()});
  const float step = 2 / std::sqrt(5.f);
  expect_values("adain", result[0].toTensor(), at::tensor({0.f, 1 - step, 1 + step, 1 + 3 * step}).relu().view({1, 1, 2, 2}));
  expect_values("adain mean", result[1].toTensor(), at::full({1, 1}, 4.f));
  expect_values("adain rstd", result[2].toTensor(), at::full({1, 1}, 1 / std::sqrt(5.f)));

  const auto gradients = call("_adain_backward", {at::ones_like(x), x, scale, shift, result[1], result[2], "none"});
  expect_values("adain dx", gradients[0].toTensor(), at::zeros_like(x));
  expect_values("adain dscale", gradients[1].toTensor(), at::zeros({1, 1}));
  expect_values("adain dshift", gradients[2].toTensor(), at::full({1, 1}, 4.f));
}

void test_wrong_argument_is_named() {
  try {
    call("_adain", {at::zeros({2, 2}), c10::IValue(), c10::IValue(), 1e-5, "none", c10::IValue()});
    expect("an x of two dimensions is refused", false);
  } catch (const std::exception& error) {
    expect("the error names the argument", std::string(error.what()).find("expected x with 4 dimensions") != std::string::npos);
  }
}

}  // namespace

int main() {
  const at::NoGradGuard no_grad;
  test_adain();
  test_wrong_argument_is_named();
  return report();
}
