// The CPU kernels and the mathematics that CUDA shares, without torch, against numbers worked by hand. ctest runs it once
// per instruction set.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "common/activation.h"
#include "common/bilinear.h"
#include "common/cosine.h"
#include "common/dtype.h"
#include "common/moments.h"
#include "cpu/dispatch.h"
#include "cpu/kernels/adain.h"

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

// Every float16 comes back from float32 as it was, except that all NaNs are one.
void test_float16_and_back() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float wide = cgcl::to_float(cgcl::f16{uint16_t(bits)});
    const bool nan = (bits & 0x7fffu) > 0x7c00u;
    cgcl::f16 back;
    cgcl::from_float(&back, wide);
    expect("float16 NaN", nan == (wide != wide));
    expect("float16 and back", nan ? back.bits == 0x7fff : back.bits == bits);
  }
}

void test_rounding_to_half_precision() {
  const float infinity = std::numeric_limits<float>::infinity();
  const struct {
    float value;
    uint16_t f16, bf16;
  } cases[] = {
      {1.0f, 0x3c00, 0x3f80},
      {-2.0f, 0xc000, 0xc000},
      {1.0f + 0x1p-11f, 0x3c00, 0x3f80},          // halfway: to even, down
      {1.0f + 3 * 0x1p-11f, 0x3c02, 0x3f80},      // halfway: to even, up
      {1.0f + 0x1p-8f, 0x3c04, 0x3f80},           // halfway in bfloat16, down
      {1.0f + 3 * 0x1p-8f, 0x3c0c, 0x3f82},       // and up
      {65519.0f, 0x7bff, 0x4780},                 // the largest float16 is 65504
      {65520.0f, 0x7c00, 0x4780},
      {infinity, 0x7c00, 0x7f80},
      {-infinity, 0xfc00, 0xff80},
      {0x1p-24f, 0x0001, 0x3380},                 // the smallest subnormal float16
      {0x1p-25f, 0x0000, 0x3300},
      {1.5f * 0x1p-25f, 0x0001, 0x3340},
      {-0.0f, 0x8000, 0x8000},
  };
  for (const auto& c : cases) {
    cgcl::f16 half;
    cgcl::bf16 brain;
    cgcl::from_float(&half, c.value);
    cgcl::from_float(&brain, c.value);
    expect("to float16", half.bits == c.f16);
    expect("to bfloat16", brain.bits == c.bf16);
  }
}

// 1 2 3 4 and 10 20 in three parts, one of them empty: mean 20/3, m2 = Σx² - 6·mean².
void test_moments() {
  cgcl::BasicMoments<float> moments;
  moments.add(0, 0, 0);
  expect("no part", moments.count == 0 && moments.mean == 0);
  moments.add(4, 2.5f, 5);
  moments.add(0, 0, 0);
  moments.add(2, 15, 50);
  expect_near("moments mean", moments.mean, 40.0 / 6);
  expect_near("moments m2", moments.m2, 530 - 40.0 * 40 / 6, 1e-3);
  // 1001 1002 1003 around 1000: sums 6 and 14.
  const auto part = cgcl::moments_around(1000.0f, 3.0f, 6.0f, 14.0f);
  expect_near("mean around a pivot", part.mean, 1002);
  expect_near("m2 around a pivot", part.m2, 2);
  expect("m2 is not negative", cgcl::moments_around(0.0f, 2.0f, 2.0f, 1.9f).m2 == 0);
}

void test_activation() {
  for (const float slope : {1.0f, 0.0f, 0.2f}) {
    expect_near("above zero", cgcl::activate(3.0f, slope), 3);
    expect_near("below zero", cgcl::activate(-3.0f, slope), -3 * slope);
    expect_near("gradient above zero", cgcl::before_activation(5.0f, 3.0f, slope), 5);
    expect_near("gradient below zero", cgcl::before_activation(5.0f, -3.0f, slope), 5 * slope);
  }
}

// A row 0 10 of two pixels at four positions: 0, 2.5, 7.5, 10 as F.interpolate has it (align_corners=False).
void test_bilinear() {
  const float row[] = {0, 10};
  const double expected[] = {0, 2.5, 7.5, 10};
  const cgcl::Tap only = cgcl::tap_of(0, 1, 1, 2);
  expect("one pixel", only.low == 0 && only.high == 0);
  for (int i = 0; i < 4; ++i) expect_near("bilinear", cgcl::bilinear(row, only, cgcl::tap_of(i, 4, 2, 1)), expected[i]);
  const cgcl::Tap last = cgcl::tap_of(7, 8, 4, 3);
  expect("the last tap stays inside", last.low == 9 && last.high == 9);
}

void test_order_of_ranks() {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float ascending[] = {-infinity, -2, -1e-40f, 0, 1e-40f, 1, 2, infinity, nan};
  for (size_t i = 1; i < sizeof ascending / sizeof *ascending; ++i)
    expect("ranks are in the order of the values", cgcl::rank_of(ascending[i - 1]) < cgcl::rank_of(ascending[i]));
  expect("zeros are equal", cgcl::rank_of(-0.0f) == cgcl::rank_of(0.0f));
  expect("NaNs are equal", cgcl::rank_of(nan) == cgcl::rank_of(-nan));
}

void test_cosines() {
  expect_near("reciprocal of a norm", cgcl::reciprocal_of_norm(4.0f), 0.25);
  expect("of none", cgcl::reciprocal_of_norm(0.0f) == 0 && cgcl::reciprocal_of_norm(1e-13) == 0);
  expect("of NaN", std::isnan(cgcl::reciprocal_of_norm(std::numeric_limits<float>::quiet_NaN())));
  expect_near("softmax scale", cgcl::softmax_scale(4.0f), 0.25);
  expect("softmax of nothing", cgcl::softmax_scale(0.0f) == 0);
  expect_near("softmax gradient", cgcl::softmax_gradient(0.25f, 3.0f, 1.0f), 0.5);
}

}  // namespace

int main() {
  test_float16_and_back();
  test_rounding_to_half_precision();
  test_moments();
  test_activation();
  test_bilinear();
  test_order_of_ranks();
  test_cosines();
  test_variant_is_at_most_the_one_asked_for();
  test_adain_forward();
  test_adain_backward();
  return report();
}
