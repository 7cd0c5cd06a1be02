#include "memory.h"

#include <cstring>

#include "gemm.h"

namespace cgcl {
namespace CGCL_VARIANT {
namespace {

// Hands out rows of kMemoryRow floats from the scratch memory.
struct Rows {
  float* next;
  float* take(int64_t rows) {
    float* taken = next;
    next += rows * kMemoryRow;
    return taken;
  }
  float* tile(const FeatureMap& m) { return take(round_up(m.C, kMemoryPad)); }
  float* weights(int64_t count) { return take(round_up(count, kMemoryRows)); }
};

inline vf reciprocal_norm(vf squares) {
  vf norm;
  for (int i = 0; i < kLanes; ++i) norm[i] = __builtin_sqrtf(squares[i]);
  return reciprocal_of_norm(norm);
}

// Replaces the entries of items of other classes by `value`.
inline void mask(const Classes& classes, int64_t N, int64_t pixels, const Span& span, float* d, float value) {
  if (classes.pixels == nullptr) return;
  const int64_t* pixel = classes.pixels + span.image * pixels + span.first;
  for (int64_t n = 0; n < N; ++n) {
    const int64_t item = classes.items[n];
    float* row = d + n * kMemoryRow;
    for (int64_t p = 0; p < span.count; ++p) row[p] = pixel[p] == item ? row[p] : value;
  }
}

// Counts the items that each pixel of a span addresses.
inline void count_items(const Classes& classes, int64_t N, int64_t pixels, const Span& span, float* counts) {
  for (int64_t p = 0; p < span.padded; ++p) counts[p] = classes.pixels == nullptr ? float(N) : 0.0f;
  if (classes.pixels == nullptr) return;
  const int64_t* pixel = classes.pixels + span.image * pixels + span.first;
  for (int64_t n = 0; n < N; ++n)
    for (int64_t p = 0; p < span.count; ++p) counts[p] += pixel[p] == classes.items[n] ? 1.0f : 0.0f;
}

// Turns products into cosines over τ (keys have length 1/τ). rnorm: in the squared length of each pixel, out its reciprocal.
inline void cosines_of(int64_t N, const Span& span, float* d, float* rnorm) {
  for (int64_t p = 0; p < span.padded; p += kLanes) store(rnorm + p, reciprocal_norm(load(rnorm + p)));
  for (int64_t n = 0; n < N; ++n) {
    float* row = d + n * kMemoryRow;
    for (int64_t p = 0; p < span.padded; p += kLanes) store(row + p, load(row + p) * load(rnorm + p));
  }
}

// Softmax over items of cosines over τ: bounded, so no maximum is subtracted. If every item is masked, all weights are 0.
inline void softmax_of_cosines(int64_t N, const Span& span, const float* d, float* weights) {
  for (int64_t p = 0; p < span.padded; p += kLanes) {
    vf total = {};
    for (int64_t n = 0; n < N; ++n) {
      const vf e = exp(load(d + n * kMemoryRow + p));
      store(weights + n * kMemoryRow + p, e);
      total += e;
    }
    const vf scale = softmax_scale(total);
    for (int64_t n = 0; n < N; ++n)
      store(weights + n * kMemoryRow + p,
            softmax_weight(load(weights + n * kMemoryRow + p), load(d + n * kMemoryRow + p), scale));
  }
}

// Copies between rows of kMemoryRow and rows of (B, N, H·W).
inline void save(float* to, const float* rows, int64_t N, int64_t pixels, const Span& span) {
  for (int64_t n = 0; n < N; ++n)
    std::memcpy(to + (span.image * N + n) * pixels + span.first, rows + n * kMemoryRow, span.count * sizeof(float));
}
inline void restore(float* rows, const float* from, int64_t N, int64_t pixels, const Span& span) {
  for (int64_t n = 0; n < N; ++n) {
    float* row = rows + n * kMemoryRow;
    std::memcpy(row, from + (span.image * N + n) * pixels + span.first, span.count * sizeof(float));
    for (int64_t p = span.count; p < span.padded; ++p) row[p] = 0.0f;
  }
}

void read(const MemoryReadArgs& a, float* scratch, int64_t begin, int64_t end) {
  Rows rows{scratch};
  const int64_t N = a.keys.count;
  float *content = rows.tile(a.content), *buffer = rows.tile(a.out);
  float *d = rows.weights(N), *weights = rows.weights(N), *rnorm = rows.take(1);
  for (int64_t t = begin; t < end; ++t) {
    const Span span = span_of(t, a.pixels);
    const Tile x = load_tile(a.content, span, content);
    similarity(a.content, x, span, a.keys, d, rnorm);
    cosines_of(N, span, d, rnorm);
    mask(a.classes, N, a.pixels, span, d, kMemoryMasked);
    save(a.cosines, d, N, a.pixels, span);
    save(a.rnorm, rnorm, 1, a.pixels, span);
    softmax_of_cosines(N, span, d, weights);
    const Output out = output_tile(a.out, span, buffer);
    combine(a.out, out, span, weights, a.values);
    finish_tile(a.out, span, out);
  }
}

// Notation: weights α, cosines d over τ, ĉ content of unit length, k̂ keys of length 1/τ.
//   dv = Σ_p α g,   dα = g·v,   dd = α(dα - Σ_n α dα),   dk̂ = Σ_p dd ĉ,   dc = (Σ_n dd k̂ - ĉ Σ_n dd d)/‖c‖.
void read_backward(const MemoryReadBackwardArgs& a, const MemorySums& sums, float* scratch, int64_t begin, int64_t end) {
  Rows rows{scratch};
  const int64_t N = a.keys.count;
  float *content = rows.tile(a.content), *grad = rows.tile(a.grad), *buffer = rows.tile(a.dcontent);
  float *d = rows.weights(N), *weights = rows.weights(N), *dweights = rows.weights(N), *room = rows.weights(N);
  float *rnorm = rows.take(1), *scale = rows.take(1);
  for (int64_t t = begin; t < end; ++t) {
    const Span span = span_of(t, a.pixels);
    const Tile g = load_tile(a.grad, span, grad);
    restore(d, a.cosines, N, a.pixels, span);
    softmax_of_cosines(N, span, d, weights);
    const bool need_weights = a.need_content || a.need_keys;
    if (need_weights) similarity(a.grad, g, span, a.values, dweights, scale);
    if (a.need_values) accumulate(a.grad, g, span, weights, N, room, sums.values);
    if (!need_weights) continue;

    restore(rnorm, a.rnorm, 1, a.pixels, span);
    for (int64_t p = 0; p < span.padded; p += kLanes) {
      vf inner = {}, along = {};
      for (int64_t n = 0; n < N; ++n)
        inner += softmax_inner(load(weights + n * kMemoryRow + p), load(dweights + n * kMemoryRow + p));
      const vf r = load(rnorm + p);
      for (int64_t n = 0; n < N; ++n) {
        const vf dd = softmax_gradient(load(weights + n * kMemoryRow + p), load(dweights + n * kMemoryRow + p), inner);
        along += dd * load(d + n * kMemoryRow + p);
        store(dweights + n * kMemoryRow + p, dd * r);
      }
      store(scale + p, along * r * r);
    }
    for (int64_t n = 0; n < N; ++n)  // beyond the span, products with infinite values are NaN
      for (int64_t p = span.count; p < span.padded; ++p) dweights[n * kMemoryRow + p] = 0.0f;
    const Tile x = load_tile(a.content, span, content);
    if (a.need_keys) accumulate(a.content, x, span, dweights, N, room, sums.keys);
    if (a.need_content) {
      const Output out = output_tile(a.dcontent, span, buffer);
      combine(a.dcontent, out, span, dweights, a.keys, &x, scale);
      finish_tile(a.dcontent, span, out);
    }
  }
}

// Σ_p e^d, Σ_p e^d c and Σ_p e^d s of each item in one pass. The softmax denominator is only known at the end, so divide then.
void update(const MemoryUpdateArgs& a, const MemorySums& sums, float* scratch, int64_t begin, int64_t end) {
  Rows rows{scratch};
  const int64_t N = a.keys.count;
  float *content = rows.tile(a.content), *style = rows.tile(a.style);
  float *weights = rows.weights(N), *room = rows.weights(N), *rnorm = rows.take(1);
  for (int64_t t = begin; t < end; ++t) {
    const Span span = span_of(t, a.pixels);
    const Tile x = load_tile(a.content, span, content);
    similarity(a.content, x, span, a.keys, weights, rnorm);
    cosines_of(N, span, weights, rnorm);
    mask(a.classes, N, a.pixels, span, weights, kMemoryMasked);
    for (int64_t n = 0; n < N; ++n) {
      float* row = weights + n * kMemoryRow;
      for (int64_t p = span.count; p < span.padded; ++p) row[p] = kMemoryMasked;
      vf total = {};
      for (int64_t p = 0; p < span.padded; p += kLanes) {
        const vf e = exp(load(row + p));
        store(row + p, e);
        total += e;
      }
      sums.weights[n] += sum(total);
    }
    accumulate(a.content, x, span, weights, N, room, sums.keys);
    const Tile s = load_tile(a.style, span, style);
    accumulate(a.style, s, span, weights, N, room, sums.values);
  }
}

// Eq. 8 as log(1 + Σ_{n ≠ n₊} e^(l_n - l_n₊)): the nearest item n₊ has the largest logit, so the sum is at most N - 1. If a
// logit of the pixel's class is infinite or NaN, the loss is NaN and the gradient to the logits is that of torch.logsumexp.
int64_t contrast(const MemoryContrastArgs& a, float* scratch, int64_t begin, int64_t end) {
  Rows rows{scratch};
  const int64_t N = a.items.count;
  float *features = rows.tile(a.features), *l = rows.weights(N), *rest_of = rows.take(1), *counts = rows.take(1);
  int64_t counted = 0;
  for (int64_t t = begin; t < end; ++t) {
    const Span span = span_of(t, a.pixels);
    const Tile x = load_tile(a.features, span, features);
    similarity(a.features, x, span, a.items, l, rest_of);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t p = 0; p < span.padded; p += kLanes)
        store(l + n * kMemoryRow + p, load(l + n * kMemoryRow + p) * a.rtemperature);
    mask(a.classes, N, a.pixels, span, l, -__builtin_inff());
    count_items(a.classes, N, a.pixels, span, counts);
    for (int64_t p = 0; p < span.padded; p += kLanes) {
      vf best = load(l + p);
      vi nearest = {};
      for (int64_t n = 1; n < N; ++n) {
        const vf logit = load(l + n * kMemoryRow + p);
        const vi above = logit > best;
        best = above ? logit : best;
        nearest = above ? vi{} + int32_t(n) : nearest;
      }
      const vf infinite = best - best;  // 0 or NaN
      vf rest = {};
      for (int64_t n = 0; n < N; ++n) {
        const vf logit = load(l + n * kMemoryRow + p), e = exp(logit - best);
        store(l + n * kMemoryRow + p, e);
        // Logits equal to the maximum count 1, infinite ones too; finite logits beside an infinite one get gradient 0.
        rest += nearest == vi{} + int32_t(n) ? vf{} : logit == best ? vf{} + 1.0f : e;
      }
      const vi has_items = load(counts + p) > 0.0f;
      store(rest_of + p, has_items ? rest + infinite : vf{});
      const vf scale = 1.0f / (1.0f + rest);
      for (int64_t n = 0; n < N; ++n) {
        const vf other = load(l + n * kMemoryRow + p);
        store(l + n * kMemoryRow + p, (nearest == vi{} + int32_t(n) ? infinite - rest : other) * scale);
      }
      const int64_t lanes = smaller(kLanes, span.count - p);
      for (int64_t i = 0; i < lanes; ++i) counted += has_items[i] != 0;
    }
    mask(a.classes, N, a.pixels, span, l, 0.0f);
    float* loss = a.loss + span.image * a.pixels + span.first;
    for (int64_t p = 0; p < span.count; ++p) loss[p] = __builtin_log1pf(rest_of[p]);
    save(a.logit_grad, l, N, a.pixels, span);
  }
  return counted;
}

void contrast_backward(const MemoryContrastBackwardArgs& a, const MemorySums& sums, float* scratch, int64_t begin,
                       int64_t end) {
  Rows rows{scratch};
  const int64_t N = a.items.count;
  float *features = rows.tile(a.features), *buffer = rows.tile(a.dfeatures);
  float *weights = rows.weights(N), *room = rows.weights(N), *grad = rows.take(1);
  for (int64_t t = begin; t < end; ++t) {
    const Span span = span_of(t, a.pixels);
    restore(weights, a.logit_grad, N, a.pixels, span);
    restore(grad, a.grad, 1, a.pixels, span);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t p = 0; p < span.padded; p += kLanes)
        store(weights + n * kMemoryRow + p, load(weights + n * kMemoryRow + p) * load(grad + p) * a.rtemperature);
    if (a.need_items) {
      const Tile x = load_tile(a.features, span, features);
      accumulate(a.features, x, span, weights, N, room, sums.keys);
    }
    if (a.need_features) {
      const Output out = output_tile(a.dfeatures, span, buffer);
      combine(a.dfeatures, out, span, weights, a.items);
      finish_tile(a.dfeatures, span, out);
    }
  }
}

}  // namespace

extern const MemoryKernels memory_kernels_table = {read, read_backward, update, contrast, contrast_backward};

}  // namespace CGCL_VARIANT
}  // namespace cgcl
