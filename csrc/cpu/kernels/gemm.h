// Small matrix products (GEMM) of feature maps and a few item vectors, tile by tile. Only for csrc/cpu/kernels/*.cpp.
//
// A tile is stored as rows of channels (NCHW: vectorised along pixels) or as rows of pixels (channels_last: vectorised along
// channels). For item vectors W (N, C) and weights w (N, pixels) the three products take these forms:
//                                            rows of channels        rows of pixels
//   similarity  d(n,p) = Σ_c W(n,c) x(c,p)   outer products          inner products
//   combine     y(c,p) = Σ_n w(n,p) W(n,c)   outer products          outer products
//   accumulate  s(n,c) += Σ_p w(n,p) x(c,p)  inner products          outer products
#pragma once

#include <cstdint>
#include <cstring>

#include "../vec.h"
#include "memory.h"

namespace cgcl {
namespace CGCL_VARIANT {
namespace {

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// ---- C(r, j) = start + Σ_k A[k·lda + r] · B[k·ldb + j]

enum class Start { zero, add, minus_scaled_columns, minus_scaled_rows };

struct StartArgs {
  const float* x = nullptr;  // minus_scaled_columns: -x(r, j)·scale[j]; minus_scaled_rows: -x(r, j)·scale[r]
  int64_t ldx = 0;
  const float* scale = nullptr;
};

constexpr int kRows = kLanes == 16 ? 10 : 6;  // accumulator rows, of two vectors each: as many as the register file holds
constexpr int64_t kDepth = 8;  // rows of B per step, so that B is read in long runs

// kFirst: this is the first pass over B. It also adds Σ_k B(k, j)² to `squares` and prefetches the next kDepth rows.
template <int R, int V, Start kStart, bool kFirst>
inline void outer_block(int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb, float* C, int64_t ldc,
                        const StartArgs& start, int64_t row, int64_t column, float* squares) {
  vf sums[R][V], squared[V] = {};
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) {
      if constexpr (kStart == Start::add) {
        sums[r][v] = load(C + r * ldc + v * kLanes);
      } else if constexpr (kStart == Start::minus_scaled_columns) {
        sums[r][v] = -load(start.x + (row + r) * start.ldx + column + v * kLanes) * load(start.scale + column + v * kLanes);
      } else if constexpr (kStart == Start::minus_scaled_rows) {
        sums[r][v] = load(start.x + (row + r) * start.ldx + column + v * kLanes) * -start.scale[row + r];
      } else {
        sums[r][v] = vf{};
      }
    }
  if constexpr (kFirst)
    for (int v = 0; v < V; ++v) squared[v] = load(squares + column + v * kLanes);
  for (int64_t k = 0; k < K; ++k) {
    vf b[V];
    for (int v = 0; v < V; ++v) {
      b[v] = load(B + k * ldb + v * kLanes);
      if constexpr (kFirst) {
        __builtin_prefetch(B + (k + kDepth) * ldb + v * kLanes);
        squared[v] += b[v] * b[v];
      }
    }
    for (int r = 0; r < R; ++r) {
      const float a = A[k * lda + r];
      for (int v = 0; v < V; ++v) sums[r][v] += b[v] * a;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(C + r * ldc + v * kLanes, sums[r][v]);
  if constexpr (kFirst)
    for (int v = 0; v < V; ++v) store(squares + column + v * kLanes, squared[v]);
}

// One block of rows over columns [first, last). Returns the number of rows.
template <int R, Start kStart, bool kFirst>
inline int64_t outer_rows(int64_t first, int64_t last, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                          float* C, int64_t ldc, const StartArgs& start, int64_t row, float* squares) {
  int64_t j = first;
  for (; j + 2 * kLanes <= last; j += 2 * kLanes)
    outer_block<R, 2, kStart, kFirst>(K, A + row, lda, B + j, ldb, C + row * ldc + j, ldc, start, row, j, squares);
  for (; j < last; j += kLanes)
    outer_block<R, 1, kStart, kFirst>(K, A + row, lda, B + j, ldb, C + row * ldc + j, ldc, start, row, j, squares);
  return R;
}

template <Start kStart, bool kFirst>
inline int64_t outer_some_rows(int64_t M, int64_t first, int64_t last, int64_t K, const float* A, int64_t lda,
                               const float* B, int64_t ldb, float* C, int64_t ldc, const StartArgs& start, int64_t row,
                               float* squares) {
  const int64_t left = M - row;
  if (left >= kRows) return outer_rows<kRows, kStart, kFirst>(first, last, K, A, lda, B, ldb, C, ldc, start, row, squares);
  if (left >= kRows / 2)
    return outer_rows<kRows / 2, kStart, kFirst>(first, last, K, A, lda, B, ldb, C, ldc, start, row, squares);
  if (left >= 2) return outer_rows<2, kStart, kFirst>(first, last, K, A, lda, B, ldb, C, ldc, start, row, squares);
  return outer_rows<1, kStart, kFirst>(first, last, K, A, lda, B, ldb, C, ldc, start, row, squares);
}

// For C much larger than B. `columns` is a multiple of kLanes.
template <Start kStart>
void outer_products(int64_t M, int64_t columns, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                    float* C, int64_t ldc, const StartArgs& start = {}) {
  // Panels of columns such that their part of B takes half the L1 cache, so that C is written in long runs.
  const int64_t panel = larger(4096 / larger(K, 1) / (2 * kLanes), 1) * (2 * kLanes);
  for (int64_t first = 0; first < columns; first += panel)
    for (int64_t row = 0; row < M;)
      row += outer_some_rows<kStart, false>(M, first, smaller(first + panel, columns), K, A, lda, B, ldb, C, ldc, start,
                                            row, nullptr);
}

// For B much larger than C: outer_sums adds to C; outer_sums_and_squares overwrites C and also gives Σ_k B(k, j)².
void outer_sums(int64_t M, int64_t columns, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb, float* C,
                int64_t ldc) {
  constexpr int64_t kLong = 64;
  for (int64_t k = 0; k < K; k += kLong)
    for (int64_t row = 0; row < M;)
      row += outer_some_rows<Start::add, false>(M, 0, columns, smaller(kLong, K - k), A + k * lda, lda, B + k * ldb, ldb, C,
                                                ldc, {}, row, nullptr);
}

void outer_sums_and_squares(int64_t M, int64_t columns, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                            float* C, int64_t ldc, float* squares) {
  for (int64_t j = 0; j < columns; j += kLanes) store(squares + j, vf{});
  for (int64_t r = 0; r < M; ++r)
    for (int64_t j = 0; j < columns; j += kLanes) store(C + r * ldc + j, vf{});
  for (int64_t k = 0; k < K; k += kDepth) {
    const int64_t depth = smaller(kDepth, K - k);
    const float *a = A + k * lda, *b = B + k * ldb;
    int64_t row = outer_some_rows<Start::add, true>(M, 0, columns, depth, a, lda, b, ldb, C, ldc, {}, 0, squares);
    while (row < M)
      row += outer_some_rows<Start::add, false>(M, 0, columns, depth, a, lda, b, ldb, C, ldc, {}, row, squares);
  }
}

// ---- C(i, j) = or += Σ_k A[i·lda + k] · B[j·ldb + k]

template <int... I>
struct Lanes {};
#if CGCL_VECTOR_BYTES == 64
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif CGCL_VECTOR_BYTES == 32
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif

#if defined(__clang__)
#define CGCL_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CGCL_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, vi{__VA_ARGS__})
#endif

// One step of a transposing sum. Lane i: a[i] + a[i + Step] if bit Step of i is 0, b[i - Step] + b[i] if it is 1.
template <int Step, int... I>
inline vf fold(vf a, vf b, Lanes<I...>) {
  return CGCL_SHUFFLE(a, b, ((I & Step) ? kLanes + (I ^ Step) : I)...) +
         CGCL_SHUFFLE(a, b, ((I & Step) ? kLanes + I : (I ^ Step))...);
}

// Lane i of the result is the sum over the lanes of v[i].
inline vf sums_of(vf* v) {
  for (int i = 0; i < kLanes / 2; ++i) v[i] = fold<1>(v[2 * i], v[2 * i + 1], AllLanes{});
  for (int i = 0; i < kLanes / 4; ++i) v[i] = fold<2>(v[2 * i], v[2 * i + 1], AllLanes{});
  if constexpr (kLanes >= 8)
    for (int i = 0; i < kLanes / 8; ++i) v[i] = fold<4>(v[2 * i], v[2 * i + 1], AllLanes{});
  if constexpr (kLanes >= 16)
    for (int i = 0; i < kLanes / 16; ++i) v[i] = fold<8>(v[2 * i], v[2 * i + 1], AllLanes{});
  return v[0];
}

constexpr int kRowsB = kLanes == 16 ? 4 : 2;  // columns per block; kMemoryRows·kRowsB accumulators

// A is stored with a multiple of kMemoryRows rows, of which M are used; K is a multiple of kLanes. kFetch: prefetch the
// next rows of B. squares, if not null, receives Σ_k B[j·ldb + k]² for each j.
template <bool kAdd, bool kFetch>
void inner_products(int64_t M, int64_t columns, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                    float* C, int64_t ldc, float* squares = nullptr) {
  constexpr int kBlock = kMemoryRows * kRowsB;
  for (int64_t j = 0; j < columns; j += kRowsB) {
    const float* b[kRowsB];
    for (int t = 0; t < kRowsB; ++t) b[t] = B + smaller(j + t, columns - 1) * ldb;
    for (int64_t i = 0; i < M; i += kMemoryRows) {
      const float* a = A + i * lda;
      vf sums[kBlock] = {};
      const auto step = [&](int64_t k) {
        vf bs[kRowsB];
        for (int t = 0; t < kRowsB; ++t) bs[t] = load(b[t] + k);
        for (int s = 0; s < kMemoryRows; ++s) {
          const vf as = load(a + s * lda + k);
          for (int t = 0; t < kRowsB; ++t) sums[s * kRowsB + t] += as * bs[t];
        }
      };
      if (kFetch && i == 0) {
        for (int64_t k = 0; k < K; k += kLanes) {
          for (int t = 0; t < kRowsB; ++t) __builtin_prefetch(b[t] + kRowsB * ldb + k);
          step(k);
        }
      } else {
        for (int64_t k = 0; k < K; k += kLanes) step(k);
      }
      float block[kBlock];
      for (int v = 0; v < kBlock / kLanes; ++v) store(block + v * kLanes, sums_of(sums + v * kLanes));
      const int64_t rows = smaller(kMemoryRows, M - i), wide = smaller(kRowsB, columns - j);
      for (int64_t s = 0; s < rows; ++s)
        for (int64_t t = 0; t < wide; ++t) {
          float* c = C + (i + s) * ldc + j + t;
          *c = kAdd ? *c + block[s * kRowsB + t] : block[s * kRowsB + t];
        }
    }
    if (squares != nullptr) {
      vf squared[kLanes] = {};
      for (int64_t k = 0; k < K; k += kLanes)
        for (int t = 0; t < kRowsB; ++t) {
          const vf value = load(b[t] + k);
          squared[t] += value * value;
        }
      const vf lengths = sums_of(squared);
      for (int t = 0; t < kRowsB && j + t < columns; ++t) squares[j + t] = lengths[t];
    }
  }
}

// ---- Tiles

// `count` consecutive (flattened) pixels of one image, starting at `first`.
struct Span {
  int64_t image, first, count, padded;  // padded: count rounded up to whole vectors
};

inline Span span_of(int64_t tile, int64_t pixels) {
  const int64_t tiles = (pixels + kMemoryTile - 1) / kMemoryTile, first = tile % tiles * kMemoryTile;
  const int64_t count = smaller(kMemoryTile, pixels - first);
  return {tile / tiles, first, count, round_up(count, kLanes)};
}

// Row r starts at data + r·ld and is a channel over pixels, or a pixel over channels. Padding of rows must be readable.
struct Tile {
  const float* data;
  int64_t ld;
};

// The distance between consecutive pixels if it is the same all over the map, else 0.
inline int64_t pixel_step(const FeatureMap& m) {
  if (m.W == 1) return m.H == 1 ? 1 : m.map.stride_h;
  return m.H == 1 || m.map.stride_h == m.W * m.map.stride_w ? m.map.stride_w : 0;
}

inline int64_t pixel_offset(const FeatureMap& m, int64_t p) { return p / m.W * m.map.stride_h + p % m.W * m.map.stride_w; }

// Whether the kernels can access the span in the map itself, in whole vectors.
inline bool in_place(const FeatureMap& m, const Span& span) {
  if (m.dtype != Dtype::float32) return false;
  if (m.pixel_rows) return pixel_step(m) != 0 && (m.C == 1 || m.map.stride_c == 1) && m.C % kLanes == 0;
  return pixel_step(m) == 1 && span.count == span.padded;
}

inline float* place(const FeatureMap& m, const Span& span) {
  return static_cast<float*>(m.map.data) + span.image * m.map.stride_b + span.first * pixel_step(m);
}

inline int64_t row_step(const FeatureMap& m) { return m.pixel_rows ? pixel_step(m) : m.map.stride_c; }

template <typename T>
inline void copy_in(float* to, const T* from, int64_t step, int64_t count) {
  int64_t i = 0;
  if (step == 1)
    for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  for (; i < count; ++i) to[i] = to_float(from[i * step]);
}

template <typename T>
inline void copy_out(T* to, int64_t step, const float* from, int64_t count) {
  int64_t i = 0;
  if (step == 1)
    for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  for (; i < count; ++i) from_float(to + i * step, from[i]);
}

// visit(pixels done, offset, step, count) for each run of equally spaced pixels of a span.
template <class F>
inline void for_runs(const FeatureMap& m, const Span& span, const F& visit) {
  const int64_t step = pixel_step(m);
  if (step != 0) return visit(int64_t(0), span.first * step, step, span.count);
  for (int64_t done = 0; done < span.count;) {
    const int64_t p = span.first + done, n = smaller(m.W - p % m.W, span.count - done);
    visit(done, pixel_offset(m, p), m.map.stride_w, n);
    done += n;
  }
}

template <typename T>
inline Tile pack(const FeatureMap& m, const Span& span, float* buffer) {
  const T* image = static_cast<const T*>(m.map.data) + span.image * m.map.stride_b;
  if (m.pixel_rows) {
    const int64_t ld = round_up(m.C, kMemoryPad);
    for_runs(m, span, [&](int64_t done, int64_t offset, int64_t step, int64_t n) {
      for (int64_t p = 0; p < n; ++p) {
        float* row = buffer + (done + p) * ld;
        copy_in(row, image + offset + p * step, m.map.stride_c, m.C);
        for (int64_t c = m.C; c < ld; ++c) row[c] = 0.0f;
      }
    });
    return {buffer, ld};
  }
  for (int64_t c = 0; c < m.C; ++c) {
    float* row = buffer + c * kMemoryRow;
    for_runs(m, span, [&](int64_t done, int64_t offset, int64_t step, int64_t n) {
      copy_in(row + done, image + c * m.map.stride_c + offset, step, n);
    });
    for (int64_t p = span.count; p < span.padded; ++p) row[p] = 0.0f;
  }
  return {buffer, kMemoryRow};
}

inline Tile load_tile(const FeatureMap& m, const Span& span, float* buffer) {
  if (in_place(m, span)) return {place(m, span), row_step(m)};
  return m.dtype == Dtype::float32 ? pack<float>(m, span, buffer) : pack<bf16>(m, span, buffer);
}

struct Output {
  float* data;
  int64_t ld;
};

inline Output output_tile(const FeatureMap& m, const Span& span, float* buffer) {
  if (in_place(m, span)) return {place(m, span), row_step(m)};
  return {buffer, m.pixel_rows ? round_up(m.C, kMemoryPad) : kMemoryRow};
}

template <typename T>
inline void unpack(const FeatureMap& m, const Span& span, const Output& out) {
  T* image = static_cast<T*>(m.map.data) + span.image * m.map.stride_b;
  for_runs(m, span, [&](int64_t done, int64_t offset, int64_t step, int64_t n) {
    if (m.pixel_rows) {
      for (int64_t p = 0; p < n; ++p)
        copy_out(image + offset + p * step, m.map.stride_c, out.data + (done + p) * out.ld, m.C);
    } else {
      for (int64_t c = 0; c < m.C; ++c)
        copy_out(image + c * m.map.stride_c + offset, step, out.data + c * out.ld + done, n);
    }
  });
}

inline void finish_tile(const FeatureMap& m, const Span& span, const Output& out) {
  if (in_place(m, span)) return;
  if (m.dtype == Dtype::float32) {
    unpack<float>(m, span, out);
  } else {
    unpack<bf16>(m, span, out);
  }
}

// ---- The three products

// d(n, p) in rows of kMemoryRow. squares receives Σ_c x(c, p)².
inline void similarity(const FeatureMap& m, const Tile& x, const Span& span, const Items& items, float* d, float* squares) {
  if (!m.pixel_rows) {
    outer_sums_and_squares(items.count, span.padded, m.C, items.columns, items.ld_columns, x.data, x.ld, d, kMemoryRow,
                           squares);
    return;
  }
  const int64_t C = round_up(m.C, kLanes);
  for (int64_t p = 0; p < span.padded; ++p) squares[p] = 0.0f;
  inner_products<false, false>(items.count, span.count, C, items.rows, items.ld_rows, x.data, x.ld, d, kMemoryRow, squares);
  for (int64_t n = 0; n < items.count; ++n)
    for (int64_t p = span.count; p < span.padded; ++p) d[n * kMemoryRow + p] = 0.0f;
}

// y(c, p) into `out`, in the layout of m. If x and scale are given: y(c, p) - x(c, p)·scale[p].
inline void combine(const FeatureMap& m, const Output& out, const Span& span, const float* weights, const Items& items,
                    const Tile* x = nullptr, const float* scale = nullptr) {
  const int64_t rows = m.pixel_rows ? span.count : m.C, columns = m.pixel_rows ? round_up(m.C, kLanes) : span.padded;
  const float* A = m.pixel_rows ? weights : items.rows;
  const int64_t lda = m.pixel_rows ? kMemoryRow : items.ld_rows;
  const float* B = m.pixel_rows ? items.rows : weights;
  const int64_t ldb = m.pixel_rows ? items.ld_rows : kMemoryRow;
  if (x == nullptr) {
    outer_products<Start::zero>(rows, columns, items.count, A, lda, B, ldb, out.data, out.ld);
    return;
  }
  const StartArgs start{x->data, x->ld, scale};
  if (m.pixel_rows) {
    outer_products<Start::minus_scaled_rows>(rows, columns, items.count, A, lda, B, ldb, out.data, out.ld, start);
  } else {
    outer_products<Start::minus_scaled_columns>(rows, columns, items.count, A, lda, B, ldb, out.data, out.ld, start);
  }
}

// Adds s(n, c), in rows of round_up(C, kMemoryPad). Weights beyond span.count must be finite: they are multiplied by zeros.
// `room` holds kMemoryTile·round_up(count, kMemoryRows) floats.
inline void accumulate(const FeatureMap& m, const Tile& x, const Span& span, const float* weights, int64_t count,
                       float* room, float* sums) {
  const int64_t ld = round_up(m.C, kMemoryPad);
  if (!m.pixel_rows) {
    inner_products<true, true>(count, m.C, span.padded, weights, kMemoryRow, x.data, x.ld, sums, ld);
    return;
  }
  const int64_t lda = round_up(count, kMemoryRows);
  for (int64_t n = 0; n < count; ++n)
    for (int64_t p = 0; p < span.count; ++p) room[p * lda + n] = weights[n * kMemoryRow + p];
  outer_sums(count, round_up(m.C, kLanes), span.count, room, lda, x.data, x.ld, sums, ld);
}

}  // namespace
}  // namespace CGCL_VARIANT
}  // namespace cgcl
