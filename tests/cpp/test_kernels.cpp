// The CPU kernels by themselves, without torch, against numbers worked by hand. ctest runs it once per instruction set.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu/kernels/adain.h"
#include "cpu/variant.h"

namespace {

void test_variant_is_at_most_the_one_asked_for() {
  const char* wanted = std::getenv("CGCL_FAST_CPU_VARIANT");
  for (const cgcl::Variant variant : {cgcl::Variant::baseline, cgcl::Variant::avx2, cgcl::Variant::avx512})
    if (wanted != nullptr && std::strcmp(wanted, cgcl::variant_name(variant)) == 0)
      expect("the variant is at most the one asked for", cgcl::cpu_variant() <= variant);
}

// One plane 1 3 / 5 7: mean 4, variance 5. scale 2, shift 1, then relu.
void test_adain_forward() {
  const std::vector<float> x = {1, 3, 5, 7};
  std::vector<float> y(4);
  const float scale = 2, shift = 1;
  float mean = 0, rstd = 0;
  cgcl::AdainArgs args{};
  args.B = 1, args.C = 1, args.H = 2, args.W = 2;
  args.x = {const_cast<float*>(x.data()), 4, 4, 2, 1};
  args.y = {y.data(), 4, 4, 2, 1};
  args.scale = &scale, args.shift = &shift, args.mean = &mean, args.rstd = &rstd;
  args.eps = 0, args.negative_slope = 0;
  cgcl::adain_kernels().forward[0](args, 0, 1);
  const double step = 2 / std::sqrt(5.0);
  expect_near("mean", mean, 4);
  expect_near("rstd", rstd, 1 / std::sqrt(5.0));
  const double expected[] = {0, 1 - step, 1 + step, 1 + 3 * step};
  for (int i = 0; i < 4; ++i) expect_near("adain", y[i], expected[i]);
}

// A gradient constant over the plane moves the shift alone: dx = 0, dscale = sum of the normalised values = 0, dshift = 4.
void test_adain_backward() {
  const std::vector<float> x = {1, 3, 5, 7}, grad = {1, 1, 1, 1};
  std::vector<float> dx(4, 9);
  const float scale = 2, shift = 1, mean = 4, rstd = 1 / std::sqrt(5.0f);
  float dscale = 9, dshift = 9;
  cgcl::AdainBackwardArgs args{};
  args.B = 1, args.C = 1, args.H = 2, args.W = 2;
  args.x = {const_cast<float*>(x.data()), 4, 4, 2, 1};
  args.grad = {const_cast<float*>(grad.data()), 4, 4, 2, 1};
  args.dx = {dx.data(), 4, 4, 2, 1};
  args.scale = &scale, args.shift = &shift, args.mean = &mean, args.rstd = &rstd;
  args.dscale = &dscale, args.dshift = &dshift;
  args.negative_slope = 1;
  cgcl::adain_kernels().backward[0](args, 0, 1);
  for (const float value : dx) expect_near("dx", value, 0);
  expect_near("dscale", dscale, 0);
  expect_near("dshift", dshift, 4);
}

}  // namespace

int main() {
  test_variant_is_at_most_the_one_asked_for();
  test_adain_forward();
  test_adain_backward();
  return report();
}
