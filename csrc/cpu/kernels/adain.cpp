#include "adain.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "../../common/activation.h"
#include "../../common/moments.h"
#include "../vec.h"

namespace cgcl {
namespace CGCL_VARIANT {
namespace {

constexpr int64_t kChunk = 1024;  // elements per chunk: four float buffers of this size fit in the L1 cache

// n elements from p, `stride` apart, as float32; returns p itself if they already are contiguous float32.
template <typename T>
inline const float* fetch(const T* p, int64_t n, int64_t stride, float* buffer) {
  if (stride == 1) {
    if constexpr (std::is_same_v<T, float>) return p;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(buffer + i, load(p + i));
    for (; i < n; ++i) buffer[i] = to_float(p[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) buffer[i] = to_float(p[i * stride]);
  }
  return buffer;
}

template <typename T>
inline float* place(T* p, int64_t stride, float* buffer) {
  if constexpr (std::is_same_v<T, float>)
    if (stride == 1) return p;
  return buffer;
}

template <typename T>
inline void flush(T* p, int64_t n, int64_t stride, const float* buffer) {
  if (stride == 1) {
    if constexpr (std::is_same_v<T, float>) return;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(p + i, load(buffer + i));
    for (; i < n; ++i) from_float(p + i, buffer[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) from_float(p + i * stride, buffer[i]);
  }
}

template <typename T>
inline T* plane_of(const Map& map, int64_t b, int64_t c) {
  return static_cast<T*>(map.data) + b * map.stride_b + c * map.stride_c;
}

// The next plane, to prefetch while this one is written, so that its statistics find it in the cache.
template <typename T, class Args>
inline const T* next_plane(const Args& a, const Map& map, const T* current, int64_t plane, int64_t end) {
  return plane + 1 < end ? plane_of<T>(map, (plane + 1) / a.C, (plane + 1) % a.C) : current;
}

inline bool is_one_row(const Map& map, int64_t H, int64_t W) {
  return map.data == nullptr || H == 1 || map.stride_h == W * map.stride_w;
}

// visit(row offset index h, first column w, n) in chunks; a plane whose rows are contiguous counts as one row.
template <class F>
inline void for_chunks(int64_t rows, int64_t columns, const F& visit) {
  for (int64_t h = 0; h < rows; ++h)
    for (int64_t w = 0; w < columns; w += kChunk) visit(h, w, columns - w < kChunk ? columns - w : kChunk);
}

// Moments of n values around `pivot`, the mean of neighbouring values. If the pivot is far from this chunk's mean, the plane
// itself varies that much, so the cancellation error is small compared with the plane's variance.
inline void add_chunk(Moments& moments, const float* x, int64_t n, float pivot) {
  vf s[4] = {}, q[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) {
      const vf d = load(x + i + j * kLanes) - pivot;
      s[j] += d;
      q[j] += d * d;
    }
  for (; i + kLanes <= n; i += kLanes) {
    const vf d = load(x + i) - pivot;
    s[0] += d;
    q[0] += d * d;
  }
  double total = sum((s[0] + s[1]) + (s[2] + s[3])), squares = sum((q[0] + q[1]) + (q[2] + q[3]));
  for (; i < n; ++i) {
    const float d = x[i] - pivot;
    total += d;
    squares += d * d;
  }
  const Moments chunk = moments_around(double(pivot), double(n), total, squares);
  moments.add(chunk.count, chunk.mean, chunk.m2);
}

// The pivot for the first chunk of a plane.
inline float rough_mean(const float* x, int64_t n) {
  const int64_t few = n < 64 ? n : 64;
  float total = 0;
  for (int64_t i = 0; i < few; ++i) total += x[i];
  return total / float(few);
}

// visit(row, column, n, first) for the rows, or parts of rows, that make up positions [first, last) of a plane.
template <class F>
inline void for_rows(int64_t first, int64_t last, int64_t W, const F& visit) {
  for (int64_t n; first < last; first += n) {
    const int64_t column = first % W;
    n = W - column < last - first ? W - column : last - first;
    visit(first / W, column, n, first);
  }
}

// visit(position, source position) for the padding at both ends of a side of length n, within [first, last).
template <class F>
inline void for_padding(int64_t first, int64_t last, int64_t n, Pad pad, const F& visit) {
  for (int64_t k = 1; k <= pad.size; ++k)
    for (int end = 0; end < 2; ++end) {
      const int64_t t = end == 0 ? -k : n - 1 + k, shown = shown_at(t, n, pad);
      if (shown >= first && shown < last) visit(t, shown);
    }
}

// Like flush, for n positions of a padded plane starting at p; also writes their copies in the left and right padding.
template <typename T>
inline void flush_padded(T* y, const Map& map, int64_t W, Pad pad, int64_t p, int64_t n, const float* buffer) {
  for_rows(p, p + n, W, [&](int64_t h, int64_t w, int64_t count, int64_t first) {
    T* row = y + h * map.stride_h;
    const float* values = buffer + (first - p);
    if (map.stride_w == 1) {
      int64_t i = 0;
      for (; i + kLanes <= count; i += kLanes) store(row + w + i, load(values + i));
      for (; i < count; ++i) from_float(row + w + i, values[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) from_float(row + (w + i) * map.stride_w, values[i]);
    }
    for_padding(w, w + count, W, pad, [&](int64_t t, int64_t shown) { row[t * map.stride_w] = row[shown * map.stride_w]; });
  });
}

// Writes the padding above and below a plane whose rows are already padded.
template <typename T>
inline void pad_rows(T* y, const Map& map, int64_t H, int64_t W, Pad pad) {
  for_padding(0, H, H, pad, [&](int64_t t, int64_t shown) {
    T* to = y + t * map.stride_h - pad.size * map.stride_w;
    const T* from = y + shown * map.stride_h - pad.size * map.stride_w;
    if (map.stride_w == 1) {
      std::memcpy(to, from, (W + 2 * pad.size) * sizeof(T));
    } else {
      for (int64_t w = 0; w < W + 2 * pad.size; ++w) to[w * map.stride_w] = from[w * map.stride_w];
    }
  });
}

// Like fetch, for the gradient of n positions from p on of the unpadded plane: sums over all padded copies of each.
template <typename T>
inline const float* fetch_folded(const T* grad, const Map& map, int64_t H, int64_t W, Pad pad, int64_t p, int64_t n,
                                 float* buffer) {
  for_rows(p, p + n, W, [&](int64_t h, int64_t w, int64_t count, int64_t first) {
    float* values = buffer + (first - p);
    const Images rows = images_of(h, H, pad);
    for (int64_t image = 0; image < rows.count(); ++image) {
      const T* row = grad + rows.at(image) * map.stride_h;
      int64_t i = 0;
      if (map.stride_w == 1) {
        for (; i + kLanes <= count; i += kLanes) {
          const vf g = load(row + w + i);
          store(values + i, image == 0 ? g : load(values + i) + g);
        }
      }
      for (; i < count; ++i) {
        const float g = to_float(row[(w + i) * map.stride_w]);
        values[i] = image == 0 ? g : values[i] + g;
      }
      for_padding(w, w + count, W, pad,
                  [&](int64_t t, int64_t shown) { values[shown - w] += to_float(row[t * map.stride_w]); });
    }
  });
  return buffer;
}

// Writes a padded plane whose padding, too, has a residual.
template <typename T>
inline void write_with_padded_residual(const AdainArgs& a, const T* x, const T* residual, T* y, float mean, float gain,
                                       float shift) {
  float x_buffer[kChunk], r_buffer[kChunk], y_buffer[kChunk];
  for (int64_t row = -a.pad.size; row < a.H + a.pad.size; ++row) {
    const T* from = x + shown_at(row, a.H, a.pad) * a.x.stride_h;
    const T* added = residual + row * a.residual.stride_h;
    T* to = y + row * a.y.stride_h;
    for_chunks(1, a.W, [&](int64_t, int64_t w, int64_t n) {
      const float* xs = fetch(from + w * a.x.stride_w, n, a.x.stride_w, x_buffer);
      const float* rs = fetch(added + w * a.residual.stride_w, n, a.residual.stride_w, r_buffer);
      const auto normal = [&](int64_t i) { return activate((xs[i] - mean) * gain + shift, a.negative_slope); };
      T* destination = to + w * a.y.stride_w;
      float* ys = place(destination, a.y.stride_w, y_buffer);
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes)
        store(ys + i, activate((load(xs + i) - mean) * gain + shift, a.negative_slope) + load(rs + i));
      for (; i < n; ++i) ys[i] = normal(i) + rs[i];
      flush(destination, n, a.y.stride_w, ys);
      for_padding(w, w + n, a.W, a.pad, [&](int64_t t, int64_t shown) {
        from_float(to + t * a.y.stride_w, normal(shown - w) + to_float(added[t * a.residual.stride_w]));
      });
    });
  }
}

template <typename T, bool Padded>
void forward_planes(const AdainArgs& a, int64_t begin, int64_t end) {
  // The moments are those of x, however the other maps lie.
  const bool one_x_row = is_one_row(a.x, a.H, a.W);
  const bool one_row = one_x_row && (Padded || is_one_row(a.y, a.H, a.W)) && is_one_row(a.residual, a.H, a.W);
  const int64_t x_rows = one_x_row ? 1 : a.H, x_columns = one_x_row ? a.H * a.W : a.W;
  const int64_t rows = one_row ? 1 : a.H, columns = one_row ? a.H * a.W : a.W;
  float x_buffer[kChunk], r_buffer[kChunk], y_buffer[kChunk];
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t b = plane / a.C, c = plane % a.C;
    const T* x = plane_of<T>(a.x, b, c);
    const T* residual = a.residual.data == nullptr ? nullptr : plane_of<T>(a.residual, b, c);
    T* y = plane_of<T>(a.y, b, c);
    const T* next = next_plane(a, a.x, x, plane, end);

    Moments moments;
    for_chunks(x_rows, x_columns, [&](int64_t h, int64_t w, int64_t n) {
      const float* xs = fetch(x + h * a.x.stride_h + w * a.x.stride_w, n, a.x.stride_w, x_buffer);
      add_chunk(moments, xs, n, moments.count == 0 ? rough_mean(xs, n) : float(moments.mean));
    });
    const float mean = float(moments.mean);
    const float rstd = float(1.0 / std::sqrt(moments.m2 / moments.count + double(a.eps)));
    a.mean[plane] = mean;
    a.rstd[plane] = rstd;

    const float gain = a.scale == nullptr ? rstd : a.scale[plane] * rstd;
    const float shift = a.shift == nullptr ? 0.0f : a.shift[plane];
    if (Padded && a.residual_padded) {
      write_with_padded_residual(a, x, residual, y, mean, gain, shift);
      continue;
    }
    for_chunks(rows, columns, [&](int64_t h, int64_t w, int64_t n) {
      const float* xs = fetch(x + h * a.x.stride_h + w * a.x.stride_w, n, a.x.stride_w, x_buffer);
      T* destination = y + h * a.y.stride_h + w * a.y.stride_w;
      float* ys = Padded ? y_buffer : place(destination, a.y.stride_w, y_buffer);
      int64_t i = 0;
      const T* ahead = next + h * a.x.stride_h + w * a.x.stride_w;
      if (residual == nullptr) {
        for (; i + kLanes <= n; i += kLanes) {
          __builtin_prefetch(ahead + i, 0, 2);
          store(ys + i, activate((load(xs + i) - mean) * gain + shift, a.negative_slope));
        }
        for (; i < n; ++i) ys[i] = activate((xs[i] - mean) * gain + shift, a.negative_slope);
      } else {
        const float* rs =
            fetch(residual + h * a.residual.stride_h + w * a.residual.stride_w, n, a.residual.stride_w, r_buffer);
        for (; i + kLanes <= n; i += kLanes) {
          __builtin_prefetch(ahead + i, 0, 2);
          store(ys + i, activate((load(xs + i) - mean) * gain + shift, a.negative_slope) + load(rs + i));
        }
        for (; i < n; ++i) ys[i] = activate((xs[i] - mean) * gain + shift, a.negative_slope) + rs[i];
      }
      if constexpr (Padded) {
        flush_padded(y, a.y, a.W, a.pad, h * columns + w, n, ys);
      } else {
        flush(destination, n, a.y.stride_w, ys);
      }
    });
    if constexpr (Padded) pad_rows(y, a.y, a.H, a.W, a.pad);
  }
}

template <typename T>
void forward(const AdainArgs& a, int64_t begin, int64_t end) {
  a.pad.size == 0 ? forward_planes<T, false>(a, begin, end) : forward_planes<T, true>(a, begin, end);
}

// With g' = g·act'(pre) and x̂ = (x - mean)·rstd:  dshift = Σg',  dscale = Σg'·x̂,
// dx = scale·rstd·(g' - dshift/N - x̂·dscale/N).
template <typename T, bool Padded>
void backward_planes(const AdainBackwardArgs& a, int64_t begin, int64_t end) {
  const bool one_row = is_one_row(a.x, a.H, a.W) && is_one_row(a.dx, a.H, a.W) && (Padded || is_one_row(a.grad, a.H, a.W));
  const int64_t rows = one_row ? 1 : a.H, columns = one_row ? a.H * a.W : a.W;
  const double count = double(a.H) * double(a.W);
  float x_buffer[kChunk], g_buffer[kChunk], d_buffer[kChunk];
  for (int64_t plane = begin; plane < end; ++plane) {
    const int64_t b = plane / a.C, c = plane % a.C;
    const T* x = plane_of<T>(a.x, b, c);
    const T* grad = plane_of<T>(a.grad, b, c);
    T* dx = plane_of<T>(a.dx, b, c);
    const T* next_x = next_plane(a, a.x, x, plane, end);
    const T* next_grad = next_plane(a, a.grad, grad, plane, end);
    const float mean = a.mean[plane], rstd = a.rstd[plane];
    const float scale = a.scale == nullptr ? 1.0f : a.scale[plane];
    const float shift = a.shift == nullptr ? 0.0f : a.shift[plane];
    const float slope = a.negative_slope;
    const auto gradient = [&](int64_t h, int64_t w, int64_t n) {
      if constexpr (Padded) return fetch_folded(grad, a.grad, a.H, a.W, a.pad, h * columns + w, n, g_buffer);
      return fetch(grad + h * a.grad.stride_h + w * a.grad.stride_w, n, a.grad.stride_w, g_buffer);
    };

    double dshift = 0, dscale = 0;
    for_chunks(rows, columns, [&](int64_t h, int64_t w, int64_t n) {
      const float* xs = fetch(x + h * a.x.stride_h + w * a.x.stride_w, n, a.x.stride_w, x_buffer);
      const float* gs = gradient(h, w, n);
      vf sum_g[2] = {}, sum_gx[2] = {};
      int64_t i = 0;
      for (; i + 2 * kLanes <= n; i += 2 * kLanes)
        for (int j = 0; j < 2; ++j) {
          const vf normal = (load(xs + i + j * kLanes) - mean) * rstd;
          const vf g = load(gs + i + j * kLanes);
          const vf g_pre = before_activation(g, normal * scale + shift, slope);
          sum_g[j] += g_pre;
          sum_gx[j] += g_pre * normal;
        }
      float chunk_g = sum(sum_g[0] + sum_g[1]), chunk_gx = sum(sum_gx[0] + sum_gx[1]);
      for (; i < n; ++i) {
        const float normal = (xs[i] - mean) * rstd;
        const float g_pre = before_activation(gs[i], normal * scale + shift, slope);
        chunk_g += g_pre;
        chunk_gx += g_pre * normal;
      }
      dshift += chunk_g;
      dscale += chunk_gx;
    });
    if (a.dscale != nullptr) {
      a.dscale[plane] = float(dscale);
      a.dshift[plane] = float(dshift);
    }

    const float gain = gradient_gain(scale * rstd), mean_g = float(dshift / count), mean_gx = float(dscale / count);
    for_chunks(rows, columns, [&](int64_t h, int64_t w, int64_t n) {
      const float* xs = fetch(x + h * a.x.stride_h + w * a.x.stride_w, n, a.x.stride_w, x_buffer);
      const float* gs = gradient(h, w, n);
      T* destination = dx + h * a.dx.stride_h + w * a.dx.stride_w;
      float* ds = place(destination, a.dx.stride_w, d_buffer);
      int64_t i = 0;
      const T* ahead_x = next_x + h * a.x.stride_h + w * a.x.stride_w;
      const T* ahead_grad = next_grad + h * a.grad.stride_h + w * a.grad.stride_w;
      for (; i + kLanes <= n; i += kLanes) {
        __builtin_prefetch(ahead_x + i, 0, 2);
        __builtin_prefetch(ahead_grad + i, 0, 2);
        const vf normal = (load(xs + i) - mean) * rstd;
        const vf g = load(gs + i);
        const vf g_pre = before_activation(g, normal * scale + shift, slope);
        store(ds + i, (g_pre - mean_g - normal * mean_gx) * gain);
      }
      for (; i < n; ++i) {
        const float normal = (xs[i] - mean) * rstd;
        const float g_pre = before_activation(gs[i], normal * scale + shift, slope);
        ds[i] = (g_pre - mean_g - normal * mean_gx) * gain;
      }
      flush(destination, n, a.dx.stride_w, ds);
    });
  }
}

template <typename T>
void backward(const AdainBackwardArgs& a, int64_t begin, int64_t end) {
  a.pad.size == 0 ? backward_planes<T, false>(a, begin, end) : backward_planes<T, true>(a, begin, end);
}

// channels_last: a range of pixels with all channels, vectorised along the channels. Each tile of pixels is processed one
// vector of channels at a time, so that sums and parameters stay in registers while the tile stays in the L1 cache.
constexpr int64_t kTile = 8;

// visit(c, n): the vector of n <= kLanes channels that starts at c.
template <class F>
inline void for_channels(int64_t C, const F& visit) {
  int64_t c = 0;
  for (; c + kLanes <= C; c += kLanes) visit(c, int64_t(kLanes));
  if (c < C) visit(c, C - c);
}
template <typename T>
inline vf take(const T* p, int64_t n) {
  return n == kLanes ? load(p) : load_part(p, n);
}
template <typename T>
inline void put(T* p, vf v, int64_t n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store_part(p, v, n);
  }
}

// visit(row, column, n, first): the pixels of a range in pieces. If there are Gaps between rows, as in padded maps, each piece
// lies in one row; otherwise rows are contiguous and the range is one piece.
template <bool Gaps, class F>
inline void for_pieces(PixelRange range, int64_t W, const F& visit) {
  if constexpr (Gaps) {
    for_rows(range.first, range.last, W, visit);
  } else {
    visit(0, range.first, range.last - range.first, range.first);
  }
}

// Writes the padding that copies the n contiguous pixels from (h, w) on.
template <typename T>
inline void pad_pixels(T* y, const AdainArgs& a, int64_t h, int64_t w, int64_t n) {
  const Images rows = images_of(h, a.H, a.pad);
  const int64_t pixel = a.y.stride_w;
  for (int64_t i = 0; i < rows.count(); ++i) {
    T* row = y + rows.at(i) * a.y.stride_h;
    if (rows.at(i) != h) std::memcpy(row + w * pixel, y + h * a.y.stride_h + w * pixel, n * pixel * sizeof(T));
    for_padding(w, w + n, a.W, a.pad,
                [&](int64_t t, int64_t shown) { std::memcpy(row + t * pixel, row + shown * pixel, pixel * sizeof(T)); });
  }
}

// Loads the gradient of a tile of pixels from (h, w) on, one vector of channels at a time.
template <typename T>
struct TileGradient {
  const T* first;
  int64_t stride;

  TileGradient(const AdainBackwardArgs& a, const T* image, int64_t h, int64_t w, int64_t)
      : first(image + h * a.grad.stride_h + w * a.grad.stride_w), stride(a.grad.stride_w) {}
  vf at(int64_t i, int64_t c, int64_t n) const { return take(first + i * stride + c, n); }
};

// The same for a padded map: sums over all padded copies of each pixel.
template <typename T>
struct FoldedTileGradient {
  const T* image;
  const Map& map;
  const TileGradient<T> plain;
  const Images rows;
  Images columns[kTile];
  bool alone[kTile];  // has no copy in the padding

  FoldedTileGradient(const AdainBackwardArgs& a, const T* image, int64_t h, int64_t w, int64_t count)
      : image(image), map(a.grad), plain(a, image, h, w, count), rows(images_of(h, a.H, a.pad)) {
    for (int64_t i = 0; i < count; ++i) {
      columns[i] = images_of(w + i, a.W, a.pad);
      alone[i] = rows.count() == 1 && columns[i].count() == 1;
    }
  }
  vf at(int64_t i, int64_t c, int64_t n) const { return alone[i] ? plain.at(i, c, n) : folded(i, c, n); }
  vf folded(int64_t i, int64_t c, int64_t n) const {
    vf total{};
    for (int64_t r = 0; r < rows.count(); ++r)
      for (int64_t k = 0; k < columns[i].count(); ++k)
        total += take(image + rows.at(r) * map.stride_h + columns[i].at(k) * map.stride_w + c, n);
    return total;
  }
};

template <typename T>
void pixel_moments(const AdainArgs& a, PixelRange range, float* mean, float* m2) {
  const T* x = plane_of<T>(a.x, range.b, 0) + range.first * a.x.stride_w;
  const int64_t pixels = range.last - range.first, few = pixels < kTile ? pixels : kTile;
  float* pivot = mean;  // of the first pixels: close enough that the shifted sums lose no significant digits
  for_channels(a.C, [&](int64_t c, int64_t n) {
    vf total{};
    for (int64_t p = 0; p < few; ++p) total += take(x + p * a.x.stride_w + c, n);
    put(pivot + c, total / float(few), n);
    put(m2 + c, vf{}, n);
    put(m2 + a.C + c, vf{}, n);
  });
  float* sums = m2 + a.C;
  for (int64_t tile = 0; tile < pixels; tile += kTile) {
    const int64_t count = pixels - tile < kTile ? pixels - tile : kTile;
    const T* start = x + tile * a.x.stride_w;
    for_channels(a.C, [&](int64_t c, int64_t n) {
      const vf centre = take(pivot + c, n);
      vf s = take(sums + c, n), q = take(m2 + c, n);
      for (int64_t p = 0; p < count; ++p) {
        const vf d = take(start + p * a.x.stride_w + c, n) - centre;
        s += d;
        q += d * d;
      }
      put(sums + c, s, n);
      put(m2 + c, q, n);
    });
  }
  for_channels(a.C, [&](int64_t c, int64_t n) {
    const vf s = take(sums + c, n), offset = s / float(pixels);
    const vf squares = take(m2 + c, n), centred = squares - s * offset;
    // Squares of large numbers may overflow to infinity, and with them the variance; avoid NaN from ∞ - ∞.
    put(m2 + c, squares == __builtin_inff() ? squares : max(centred, vf{}), n);
    put(mean + c, take(pivot + c, n) + offset, n);
  });
}

inline vf parameter(const float* p, int64_t index, int64_t n, float missing) {
  return p == nullptr ? broadcast(missing) : take(p + index, n);
}

template <typename T, bool Gaps>
void write_pixels(const AdainArgs& a, PixelRange range, const float* gain) {
  const T* x = plane_of<T>(a.x, range.b, 0);
  const T* residual = a.residual.data == nullptr ? nullptr : plane_of<T>(a.residual, range.b, 0);
  T* y = plane_of<T>(a.y, range.b, 0);
  const int64_t image = range.b * a.C;
  // The pixels [first, last) of x to position (h, w) of y and on.
  const auto write = [&](int64_t first, int64_t last, int64_t h, int64_t w) {
    T* to = y + h * a.y.stride_h + (w - first) * a.y.stride_w;
    const T* added = residual == nullptr ? nullptr : residual + h * a.residual.stride_h + (w - first) * a.residual.stride_w;
    for (int64_t tile = first; tile < last; tile += kTile) {
      const int64_t end = last - tile < kTile ? last : tile + kTile;
      for_channels(a.C, [&](int64_t c, int64_t n) {
        const vf mean = take(a.mean + image + c, n), factor = take(gain + c, n);
        const vf shift = parameter(a.shift, image + c, n, 0.0f);
        for (int64_t p = tile; p < end; ++p) {
          vf v = activate((take(x + p * a.x.stride_w + c, n) - mean) * factor + shift, a.negative_slope);
          if (added != nullptr) v += take(added + p * a.residual.stride_w + c, n);
          put(to + p * a.y.stride_w + c, v, n);
        }
      });
    }
  };
  for_pieces<Gaps>(range, a.W, [&](int64_t h, int64_t w, int64_t pixels, int64_t first) {
    if (!a.residual_padded) {
      write(first, first + pixels, h, w);
      if constexpr (Gaps) pad_pixels(y, a, h, w, pixels);
      return;
    }
    const Images rows = images_of(h, a.H, a.pad);
    for (int64_t i = 0; i < rows.count(); ++i) {
      write(first, first + pixels, rows.at(i), w);
      for_padding(w, w + pixels, a.W, a.pad,
                  [&](int64_t t, int64_t shown) { write(first + shown - w, first + shown - w + 1, rows.at(i), t); });
    }
  });
}

template <typename T>
void pixel_forward(const AdainArgs& a, PixelRange range, const float* gain) {
  const bool gaps = a.pad.size > 0 || !is_one_row(a.residual, a.H, a.W);
  gaps ? write_pixels<T, true>(a, range, gain) : write_pixels<T, false>(a, range, gain);
}

template <typename T, bool Padded>
void sum_pixels(const AdainBackwardArgs& a, PixelRange range, float* sum_g, float* sum_gx) {
  const T* x = plane_of<T>(a.x, range.b, 0);
  const T* grad = plane_of<T>(a.grad, range.b, 0);
  const int64_t image = range.b * a.C;
  for_channels(a.C, [&](int64_t c, int64_t n) {
    put(sum_g + c, vf{}, n);
    put(sum_gx + c, vf{}, n);
  });
  for_pieces<Padded>(range, a.W, [&](int64_t h, int64_t w, int64_t pixels, int64_t first) {
    for (int64_t tile = 0; tile < pixels; tile += kTile) {
      const int64_t count = pixels - tile < kTile ? pixels - tile : kTile;
      const std::conditional_t<Padded, FoldedTileGradient<T>, TileGradient<T>> gradient(a, grad, h, w + tile, count);
      const T* from = x + (first + tile) * a.x.stride_w;
      for_channels(a.C, [&](int64_t c, int64_t n) {
        const vf mean = take(a.mean + image + c, n), rstd = take(a.rstd + image + c, n);
        const vf scale = parameter(a.scale, image + c, n, 1.0f), shift = parameter(a.shift, image + c, n, 0.0f);
        vf s{}, sx{};  // of the tile first: fewer roundings in the sums of the range
        for (int64_t i = 0; i < count; ++i) {
          const vf normal = (take(from + i * a.x.stride_w + c, n) - mean) * rstd;
          const vf g_pre = before_activation(gradient.at(i, c, n), normal * scale + shift, a.negative_slope);
          s += g_pre;
          sx += g_pre * normal;
        }
        put(sum_g + c, take(sum_g + c, n) + s, n);
        put(sum_gx + c, take(sum_gx + c, n) + sx, n);
      });
    }
  });
}

template <typename T>
void pixel_sums(const AdainBackwardArgs& a, PixelRange range, float* sum_g, float* sum_gx) {
  a.pad.size == 0 ? sum_pixels<T, false>(a, range, sum_g, sum_gx) : sum_pixels<T, true>(a, range, sum_g, sum_gx);
}

// to_x(c, n, scale) gives, for n channels from c on, the gradient to x as a function of g', that before the activation, and x̂.
template <typename T, bool Padded, class F>
void differentiate_pixels(const AdainBackwardArgs& a, PixelRange range, const F& to_x) {
  const T* x = plane_of<T>(a.x, range.b, 0);
  const T* grad = plane_of<T>(a.grad, range.b, 0);
  T* dx = plane_of<T>(a.dx, range.b, 0);
  const int64_t image = range.b * a.C;
  for_pieces<Padded>(range, a.W, [&](int64_t h, int64_t w, int64_t pixels, int64_t first) {
    for (int64_t tile = 0; tile < pixels; tile += kTile) {
      const int64_t count = pixels - tile < kTile ? pixels - tile : kTile;
      const std::conditional_t<Padded, FoldedTileGradient<T>, TileGradient<T>> gradient(a, grad, h, w + tile, count);
      const T* from = x + (first + tile) * a.x.stride_w;
      T* to = dx + (first + tile) * a.dx.stride_w;
      for_channels(a.C, [&](int64_t c, int64_t n) {
        const vf mean = take(a.mean + image + c, n), rstd = take(a.rstd + image + c, n);
        const vf scale = parameter(a.scale, image + c, n, 1.0f), shift = parameter(a.shift, image + c, n, 0.0f);
        const auto differentiate = to_x(c, n, scale);
        for (int64_t i = 0; i < count; ++i) {
          const vf normal = (take(from + i * a.x.stride_w + c, n) - mean) * rstd;
          const vf g_pre = before_activation(gradient.at(i, c, n), normal * scale + shift, a.negative_slope);
          put(to + i * a.dx.stride_w + c, differentiate(g_pre, normal), n);
        }
      });
    }
  });
}

template <typename T, class F>
void differentiate(const AdainBackwardArgs& a, PixelRange range, const F& to_x) {
  a.pad.size == 0 ? differentiate_pixels<T, false>(a, range, to_x) : differentiate_pixels<T, true>(a, range, to_x);
}

template <typename T>
void pixel_backward(const AdainBackwardArgs& a, PixelRange range, const float* gain, const float* mean_g,
                    const float* mean_gx) {
  differentiate<T>(a, range, [&](int64_t c, int64_t n, vf) {
    const vf factor = take(gain + c, n), g_mean = take(mean_g + c, n), gx_mean = take(mean_gx + c, n);
    return [=](vf g, vf normal) { return (g - g_mean - normal * gx_mean) * factor; };
  });
}

template <typename T>
void pixel_backward_of_image(const AdainBackwardArgs& a, PixelRange range, float rstd, float mean_g, float mean_gx) {
  differentiate<T>(a, range, [&](int64_t, int64_t, vf scale) {
    return [=](vf g, vf normal) { return (g * scale - mean_g - normal * mean_gx) * rstd; };
  });
}

}  // namespace

extern const AdainKernels adain_kernels_table = {
    {forward<float>, forward<bf16>},
    {backward<float>, backward<bf16>},
    {pixel_moments<float>, pixel_moments<bf16>},
    {pixel_forward<float>, pixel_forward<bf16>},
    {pixel_sums<float>, pixel_sums<bf16>},
    {pixel_backward<float>, pixel_backward<bf16>},
    {pixel_backward_of_image<float>, pixel_backward_of_image<bf16>},
};

}  // namespace CGCL_VARIANT
}  // namespace cgcl
