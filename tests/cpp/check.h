// What both C++ tests count with.
#pragma once

#include <cmath>
#include <cstdio>

inline int failures = 0;

inline void expect_near(const char* what, double actual, double expected, double tolerance = 1e-5) {
  if (std::abs(actual - expected) <= tolerance) return;  // false for NaN
  std::fprintf(stderr, "%s: expected %.9g, got %.9g\n", what, expected, actual);
  ++failures;
}

inline void expect(const char* what, bool condition) {
  if (condition) return;
  std::fprintf(stderr, "%s: failed\n", what);
  ++failures;
}

inline int report() {
  std::printf("%s\n", failures == 0 ? "passed" : "failed");
  return failures == 0 ? 0 : 1;
}
