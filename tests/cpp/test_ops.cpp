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
  const auto result = call("_adain", {x, scale, shift, 0.0, "relu", c10::IValue(), int64_t(0), false});
  const float step = 2 / std::sqrt(5.f);
  expect_values("adain", result[0].toTensor(),
                at::tensor({0.f, 1 - step, 1 + step, 1 + 3 * step}).relu().view({1, 1, 2, 2}));
  expect_values("adain mean", result[1].toTensor(), at::full({1, 1}, 4.f));
  expect_values("adain rstd", result[2].toTensor(), at::full({1, 1}, 1 / std::sqrt(5.f)));

  const auto gradients =
      call("_adain_backward", {at::ones_like(x), x, scale, shift, result[1], result[2], "none", int64_t(0), false});
  expect_values("adain dx", gradients[0].toTensor(), at::zeros_like(x));
  expect_values("adain dscale", gradients[1].toTensor(), at::zeros({1, 1}));
  expect_values("adain dshift", gradients[2].toTensor(), at::full({1, 1}, 4.f));

  // Padded by reflection: each of the 16 positions shows one of the four.
  const auto padded = call("_adain", {x, scale, shift, 0.0, "relu", c10::IValue(), int64_t(1), false});
  expect_values("adain padded", padded[0].toTensor(), at::reflection_pad2d(result[0].toTensor(), {1, 1, 1, 1}));
  const auto folded =
      call("_adain_backward", {at::ones({1, 1, 4, 4}), x, scale, shift, result[1], result[2], "none", int64_t(1), false});
  expect_values("adain dshift of the padded", folded[2].toTensor(), at::full({1, 1}, 16.f));
}

// Positions 3 and 0 of the two channels 0 1 2 3 and 10 11 12 13; their gradients go back to those positions.
void test_gather_patches() {
  const at::Tensor features = at::tensor({0.f, 1.f, 2.f, 3.f, 10.f, 11.f, 12.f, 13.f}).view({1, 2, 2, 2});
  const at::Tensor ids = at::tensor({3, 0}, at::kLong);
  const at::Tensor patches = at::tensor({3.f, 13.f, 0.f, 10.f}).view({1, 2, 2});
  expect_values("gather_patches", call("_gather_patches", {features, ids})[0].toTensor(), patches);
  const auto gradient = call("_gather_patches_backward", {patches, ids, 2, 2, 2, false});
  expect_values("gather_patches dx", gradient[0].toTensor(),
                at::tensor({0.f, 0.f, 0.f, 3.f, 10.f, 0.f, 0.f, 13.f}).view({1, 2, 2, 2}));
}

// A map of 2 x 2 halves to its mean: reflection reads the second row and column twice, at half the weight of the first. A
// single pixel doubles to four like it.
void test_blurs() {
  const at::Tensor x = at::tensor({1.f, 3.f, 5.f, 7.f}).view({1, 1, 2, 2});
  expect_values("blur_down", call("_blur_down", {x})[0].toTensor(), at::full({1, 1, 1, 1}, 4.f));
  const auto back = call("_blur_down_backward", {at::full({1, 1, 1, 1}, 4.f), 2, 2, false});
  expect_values("blur_down dx", back[0].toTensor(), at::ones({1, 1, 2, 2}));
  expect_values("blur_up", call("_blur_up", {at::full({1, 1, 1, 1}, 2.f)})[0].toTensor(), at::full({1, 1, 2, 2}, 2.f));
  expect_values("blur_up dx", call("_blur_up_backward", {x, false})[0].toTensor(), at::full({1, 1, 1, 1}, 16.f));
}

// Queries equal to their keys, orthogonal to each other, temperature 1: log(1 + e^-1) a row; decoupled log(e^0) - 1.
void test_patch_nce() {
  const at::Tensor vectors = at::eye(2).view({1, 2, 2});
  const auto loss = [&](bool decoupled) {
    return call("_patch_nce",
                {vectors, vectors, c10::IValue(), c10::IValue(), 1.0, "all", decoupled, false, false, false})[0]
        .toTensor();
  };
  expect_values("patch_nce", loss(false), at::full({1, 2}, float(std::log1p(std::exp(-1.0)))));
  expect_values("patch_nce decoupled", loss(true), at::full({1, 2}, -1.f));
}

// A pixel with cosines 1 and 0 to the keys reads their values 1 and 0 with weights e/(e+1) and 1/(e+1), and e⁴/(e⁴+1) at
// the temperature ¼. A boxed call gives every argument, also those with a default.
void test_memory_read() {
  const at::Tensor content = at::tensor({3.f, 0.f}).view({1, 2, 1, 1}), values = at::tensor({1.f, 0.f}).view({2, 1});
  for (const double temperature : {1.0, 0.25}) {
    const auto read = call("_memory_read", {content, at::eye(2), values, c10::IValue(), c10::IValue(), temperature});
    const double e = std::exp(1 / temperature);
    expect_values("memory_read", read[0].toTensor(), at::full({1, 1, 1, 1}, float(e / (e + 1))));
  }
}

// A map 0 1 / 2 3 at its own size: of all four positions the lowest and the two highest.
void test_dag_select() {
  const at::Tensor score = at::tensor({0.f, 1.f, 2.f, 3.f}).view({1, 1, 2, 2});
  const at::Tensor candidates = at::tensor({2, 0, 3, 1}, at::kLong).view({1, 4});
  const auto ids = call("_dag_select", {score, candidates, 2, 2, 3, 1});
  expect_values("dag_select", ids[0].toTensor(), at::tensor({0, 2, 3}, at::kLong).view({1, 3}));
}

void test_wrong_argument_is_named() {
  try {
    call("_adain", {at::zeros({2, 2}), c10::IValue(), c10::IValue(), 1e-5, "none", c10::IValue(), int64_t(0), false});
    expect("an x of two dimensions is refused", false);
  } catch (const std::exception& error) {
    expect("the error names the argument",
           std::string(error.what()).find("expected x with 4 dimensions") != std::string::npos);
  }
}

}  // namespace

int main() {
  const at::NoGradGuard no_grad;
  test_adain();
  test_gather_patches();
  test_blurs();
  test_patch_nce();
  test_memory_read();
  test_dag_select();
  test_wrong_argument_is_named();
  return report();
}
