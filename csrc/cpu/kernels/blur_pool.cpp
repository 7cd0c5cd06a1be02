#include "blur_pool.h"

#include <type_traits>

#include "../vec.h"

namespace cgcl {
namespace CGCL_VARIANT {
namespace {

// y = Σ_k weight[k]·row[k] for n contiguous elements.
template <int N, typename T, typename U>
inline void add(const T* const (&rows)[N], const float (&weight)[N], int64_t n, U* y) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    vf sum = load(rows[0] + i) * weight[0];
    for (int k = 1; k < N; ++k) sum += load(rows[k] + i) * weight[k];
    store(y + i, sum);
  }
  for (; i < n; ++i) {
    float sum = to_float(rows[0][i]) * weight[0];
    for (int k = 1; k < N; ++k) sum += to_float(rows[k][i]) * weight[k];
    from_float(y + i, sum);
  }
}

// The filter along a row t of n values, written to the W values of y. t[-1] and t[n] must be writable.
template <Blur kBlur>
inline void along(float* __restrict t, int64_t n, float* __restrict y, int64_t W) {
  if constexpr (kBlur == Blur::down) {
    t[-1] = t[1];
    t[n] = t[n - 2];
    for (int64_t j = 0; j < W; ++j) y[j] = t[2 * j - 1] * 0.25f + t[2 * j] * 0.5f + t[2 * j + 1] * 0.25f;
  } else if constexpr (kBlur == Blur::up_backward) {
    t[-1] = t[0];
    t[n] = t[n - 1];
    for (int64_t j = 0; j < W; ++j)
      y[j] = t[2 * j - 1] * 0.25f + t[2 * j] * 0.75f + t[2 * j + 1] * 0.75f + t[2 * j + 2] * 0.25f;
  } else if constexpr (kBlur == Blur::up) {
    t[-1] = t[0];
    t[n] = t[n - 1];
    for (int64_t j = 0; j < n; ++j) {
      y[2 * j] = t[j] * 0.75f + t[j - 1] * 0.25f;
      y[2 * j + 1] = t[j] * 0.75f + t[j + 1] * 0.25f;
    }
  } else {
    t[n] = 0;
    for (int64_t j = 0; j < W / 2; ++j) {
      y[2 * j] = t[j] * 0.5f;
      y[2 * j + 1] = t[j] * 0.25f + t[j + 1] * 0.25f;
    }
    if (W % 2 == 1) y[W - 1] = t[n - 1] * 0.5f;
    const int64_t beside_border[] = {1, W - 1 - W % 2};
    for (const int64_t w : beside_border) {
      const Taps<2> taps = taps_of<kBlur>(w, W, n);
      y[w] = t[taps.at[0]] * taps.weight[0] + t[taps.at[1]] * taps.weight[1];
    }
  }
}

template <Blur kBlur, typename T>
void planes(const BlurArgs& a, int64_t begin, int64_t end, float* scratch) {
  constexpr int N = kTaps<kBlur>;
  float* const t = scratch + 1;
  float* const buffer = t + a.from_w + 1;
  const int64_t stride = a.to.stride_w;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t plane = row / a.H, h = row % a.H, b = plane / a.C, c = plane % a.C;
    const T* const from = static_cast<const T*>(a.from.data) + b * a.from.stride_b + c * a.from.stride_c;
    T* const to = static_cast<T*>(a.to.data) + b * a.to.stride_b + c * a.to.stride_c + h * a.to.stride_h;
    const Taps<N> taps = taps_of<kBlur>(h, a.H, a.from_h);
    const T* rows[N];
    for (int k = 0; k < N; ++k) rows[k] = from + taps.at[k] * a.from.stride_h;
    if (a.from.stride_w == 1) {
      add(rows, taps.weight, a.from_w, t);
    } else {
      for (int64_t w = 0; w < a.from_w; ++w) {
        t[w] = to_float(rows[0][w * a.from.stride_w]) * taps.weight[0];
        for (int k = 1; k < N; ++k) t[w] += to_float(rows[k][w * a.from.stride_w]) * taps.weight[k];
      }
    }
    if constexpr (std::is_same_v<T, float>)
      if (stride == 1) {
        along<kBlur>(t, a.from_w, to, a.W);
        continue;
      }
    along<kBlur>(t, a.from_w, buffer, a.W);
    int64_t w = 0;
    if (stride == 1)
      for (; w + kLanes <= a.W; w += kLanes) store(to + w, load(buffer + w));
    for (; w < a.W; ++w) from_float(to + w * stride, buffer[w]);
  }
}

// channels_last, vectorised along the channels. The vertical sums of a tile of pixels and a block of channels go to the
// scratch, which stays in the L1 cache until the tile is written. Source and result are accessed in long runs, because
// pixels are often a power of two apart, and a cache holds few lines at such a distance.
constexpr int64_t kTile = 8;

template <Blur kBlur>
constexpr int64_t kSpan = kBlur == Blur::down          ? 2 * kTile + 1
                          : kBlur == Blur::up_backward ? 2 * kTile + 2
                                                       : kTile / 2 + 2;
static_assert(kSpan<Blur::up_backward> == kBlurSpan);

template <Blur kBlur, typename T>
void pixels(const BlurArgs& a, int64_t begin, int64_t end, float* scratch) {
  constexpr int N = kTaps<kBlur>;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / a.H, h = row % a.H;
    const T* const from = static_cast<const T*>(a.from.data) + b * a.from.stride_b;
    T* const to = static_cast<T*>(a.to.data) + b * a.to.stride_b + h * a.to.stride_h;
    const Taps<N> down = taps_of<kBlur>(h, a.H, a.from_h);
    for (int64_t tile = 0; tile < a.W; tile += kTile) {
      const int64_t count = a.W - tile < kTile ? a.W - tile : kTile;
      Taps<N> across[kTile];
      int64_t first = a.from_w, last = 0;
      for (int64_t j = 0; j < count; ++j) {
        across[j] = taps_of<kBlur>(tile + j, a.W, a.from_w);
        for (const int64_t at : across[j].at) {
          first = at < first ? at : first;
          last = at > last ? at : last;
        }
      }
      for (int64_t c = 0; c < a.C; c += kBlurChannels) {
        const int64_t n = a.C - c < kBlurChannels ? a.C - c : kBlurChannels;
        for (int64_t s = first; s <= last; ++s) {
          const T* rows[N];
          for (int k = 0; k < N; ++k) rows[k] = from + down.at[k] * a.from.stride_h + s * a.from.stride_w + c;
          add(rows, down.weight, n, scratch + (s - first) * kBlurChannels);
        }
        for (int64_t j = 0; j < count; ++j) {
          const float* columns[N];
          for (int k = 0; k < N; ++k) columns[k] = scratch + (across[j].at[k] - first) * kBlurChannels;
          add(columns, across[j].weight, n, to + (tile + j) * a.to.stride_w + c);
        }
      }
    }
  }
}

// Doubling: the four results between four source pixels read the same four pixels, from registers. A "row" here is the pair
// of result rows between two source rows, or the one at each border: b·(from_h + 1) + h. At a border both rows of the pair
// are computed, with equal values, and refer to the same position.
template <typename T>
void up_pixels(const BlurArgs& a, int64_t begin, int64_t end, float*) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / (a.from_h + 1), h = row % (a.from_h + 1);
    const T* const from = static_cast<const T*>(a.from.data) + b * a.from.stride_b;
    T* const to = static_cast<T*>(a.to.data) + b * a.to.stride_b;
    const T* const above = from + (h == 0 ? 0 : h - 1) * a.from.stride_h;
    const T* const below = from + (h == a.from_h ? h - 1 : h) * a.from.stride_h;
    T* const upper = to + (h == 0 ? 0 : 2 * h - 1) * a.to.stride_h;
    T* const lower = to + (h == a.from_h ? 2 * h - 1 : 2 * h) * a.to.stride_h;
    for (int64_t w = 0; w <= a.from_w; ++w) {
      const int64_t left = (w == 0 ? 0 : w - 1) * a.from.stride_w, right = (w == a.from_w ? w - 1 : w) * a.from.stride_w;
      const int64_t to_left = (w == 0 ? 0 : 2 * w - 1) * a.to.stride_w;
      const int64_t to_right = (w == a.from_w ? 2 * w - 1 : 2 * w) * a.to.stride_w;
      int64_t c = 0;
      for (; c + kLanes <= a.C; c += kLanes) {
        const vf nw = load(above + left + c), ne = load(above + right + c);
        const vf sw = load(below + left + c), se = load(below + right + c);
        vf l = nw * 0.75f + sw * 0.25f, r = ne * 0.75f + se * 0.25f;
        store(upper + to_left + c, l * 0.75f + r * 0.25f);
        store(upper + to_right + c, r * 0.75f + l * 0.25f);
        l = sw * 0.75f + nw * 0.25f, r = se * 0.75f + ne * 0.25f;
        store(lower + to_left + c, l * 0.75f + r * 0.25f);
        store(lower + to_right + c, r * 0.75f + l * 0.25f);
      }
      for (; c < a.C; ++c) {
        const float nw = to_float(above[left + c]), ne = to_float(above[right + c]);
        const float sw = to_float(below[left + c]), se = to_float(below[right + c]);
        float l = nw * 0.75f + sw * 0.25f, r = ne * 0.75f + se * 0.25f;
        from_float(upper + to_left + c, l * 0.75f + r * 0.25f);
        from_float(upper + to_right + c, r * 0.75f + l * 0.25f);
        l = sw * 0.75f + nw * 0.25f, r = se * 0.75f + ne * 0.25f;
        from_float(lower + to_left + c, l * 0.75f + r * 0.25f);
        from_float(lower + to_right + c, r * 0.75f + l * 0.25f);
      }
    }
  }
}

}  // namespace

extern const BlurKernels blur_kernels_table = {
    {{planes<Blur::down, float>, planes<Blur::down, bf16>},
     {planes<Blur::down_backward, float>, planes<Blur::down_backward, bf16>},
     {planes<Blur::up, float>, planes<Blur::up, bf16>},
     {planes<Blur::up_backward, float>, planes<Blur::up_backward, bf16>}},
    {{pixels<Blur::down, float>, pixels<Blur::down, bf16>},
     {pixels<Blur::down_backward, float>, pixels<Blur::down_backward, bf16>},
     {up_pixels<float>, up_pixels<bf16>},
     {pixels<Blur::up_backward, float>, pixels<Blur::up_backward, bf16>}},
};

}  // namespace CGCL_VARIANT
}  // namespace cgcl
