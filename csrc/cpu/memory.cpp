// cgcl_fast::_memory_read, _memory_update, _memory_contrast and their backwards on the CPU.
#include <cmath>
#include <cstdlib>
#include <memory>
#include <tuple>
#include <vector>

#include "../common/layout.h"
#include "kernels/memory.h"
#include "page_cache.h"
#include "scratch.h"

namespace cgcl {
namespace {

// Partial sums are added in a fixed order: the result does not depend on the number of threads.
constexpr int64_t kChunks = 32;      // at most this many chunks
constexpr int64_t kChunkTiles = 4;   // of at least this many tiles each

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

const Map& no_map() {
  static const Map map;
  return map;
}

FeatureMap feature_map(const Tensor& t, const char* op, const char* argument) {
  check_dim(t, 4, op, argument);
  const bool rows = is_channels_last(t);
  return {map_of(t), t.size(1), t.size(2), t.size(3), dtype_of(t, op, argument), rows};
}

void check_map(const Tensor& t, const Tensor& like, int64_t channels, const char* op, const char* argument) {
  check_dim(t, 4, op, argument);
  STD_TORCH_CHECK(t.size(0) == like.size(0) && t.size(1) == channels && t.size(2) == like.size(2) &&
                      t.size(3) == like.size(3),
                  op, ": expected ", argument, " of shape (", like.size(0), ", ", channels, ", ", like.size(2), ", ",
                  like.size(3), "), got (", t.size(0), ", ", t.size(1), ", ", t.size(2), ", ", t.size(3), ")");
}

// Item vectors as (N, C) and (C, N), the layouts that the products need. If `length` is given each vector is scaled to it:
// with keys of length 1/τ, products with content of unit length are the softmax logits cosine/τ.
class PackedItems {
 public:
  explicit PackedItems(const Tensor& items, double length = 0)
      : values_(as_float32(items)), N_(items.size(0)), C_(items.size(1)), factors_(N_, 1.0f),
        rows_(round_up(N_, kMemoryRows) * round_up(C_, kMemoryPad)), columns_(C_ * round_up(N_, kMemoryRows)) {
    const float* from = static_cast<const float*>(values_.const_data_ptr());
    const int64_t ld_rows = round_up(C_, kMemoryPad), ld_columns = round_up(N_, kMemoryRows);
    for (int64_t n = 0; n < N_; ++n) {
      if (length != 0) factors_[n] = float(reciprocal_norm(from + n * C_, C_) * length);
      for (int64_t c = 0; c < C_; ++c)
        rows_[n * ld_rows + c] = columns_[c * ld_columns + n] = from[n * C_ + c] * factors_[n];
    }
  }

  static double reciprocal_norm(const float* v, int64_t C) {
    double squares = 0;
    for (int64_t c = 0; c < C; ++c) squares += double(v[c]) * v[c];
    return reciprocal_of_norm(std::sqrt(squares));
  }

  Items items() const { return {rows_.data(), columns_.data(), N_, round_up(C_, kMemoryPad), round_up(N_, kMemoryRows)}; }
  const float* row(int64_t n) const { return rows_.data() + n * round_up(C_, kMemoryPad); }
  float factor(int64_t n) const { return factors_[n]; }  // length of row(n) over that of the item

 private:
  Tensor values_;
  int64_t N_, C_;
  std::vector<float> factors_, rows_, columns_;
};

class PackedClasses {
 public:
  PackedClasses(const std::optional<Tensor>& pixels, const std::optional<Tensor>& items) {
    if (!pixels.has_value() || !items.has_value()) return;
    pixels_ = dense(*pixels);
    items_ = dense(*items);
  }
  static void check(const std::optional<Tensor>& pixels, const std::optional<Tensor>& items, const Tensor& map, int64_t N,
                    const char* op) {
    STD_TORCH_CHECK(pixels.has_value() == items.has_value(), op, ": expected pixel_class and item_class, or neither");
    if (!pixels.has_value()) return;
    STD_TORCH_CHECK(pixels->scalar_type() == ScalarType::Long && items->scalar_type() == ScalarType::Long, op,
                    ": expected pixel_class and item_class of dtype int64");
    STD_TORCH_CHECK(pixels->dim() == 3 && pixels->size(0) == map.size(0) && pixels->size(1) == map.size(2) &&
                        pixels->size(2) == map.size(3),
                    op, ": expected pixel_class of shape (B, H, W) = (", map.size(0), ", ", map.size(2), ", ", map.size(3),
                    ")");
    STD_TORCH_CHECK(items->dim() == 1 && items->size(0) == N, op, ": expected item_class of shape (N,) = (", N, ",)");
  }
  Classes classes() const {
    if (!pixels_.has_value()) return {nullptr, nullptr};
    return {static_cast<const int64_t*>(pixels_->const_data_ptr()), static_cast<const int64_t*>(items_->const_data_ptr())};
  }

 private:
  std::optional<Tensor> pixels_, items_;
};

int64_t tiles_of(const Tensor& map) {
  const int64_t pixels = map.size(2) * map.size(3);
  return map.size(0) * ((pixels + kMemoryTile - 1) / kMemoryTile);
}

// Elementary steps per tile, for the grain size of the parallel loop.
int64_t work_of(const Tensor& map, int64_t N, int64_t channels) {
  return std::min(kMemoryTile, map.size(2) * map.size(3)) * N * channels / 16 + 1;
}

// Partial sums (N, C), (N, Cv) and (N) of each chunk of tiles. Either width may be zero.
class ChunkSums {
 public:
  ChunkSums(int64_t tiles, int64_t N, int64_t C, int64_t Cv)
      : tiles_(tiles), chunks_(std::min((tiles + kChunkTiles - 1) / kChunkTiles, kChunks)), N_(N),
        ld_keys_(round_up(C, kMemoryPad)), ld_values_(round_up(Cv, kMemoryPad)),
        step_(round_up(N * (ld_keys_ + ld_values_ + 1), kMemoryPad)),
        data_(static_cast<float*>(std::calloc(std::max<int64_t>(chunks_ * step_, 1), sizeof(float)))) {
    STD_TORCH_CHECK(data_ != nullptr, "cgcl_fast: not enough memory for ", chunks_ * step_ * 4, " bytes of partial sums");
  }
  ~ChunkSums() { std::free(data_); }
  ChunkSums(const ChunkSums&) = delete;
  ChunkSums& operator=(const ChunkSums&) = delete;

  int64_t chunks() const { return chunks_; }
  int64_t first_tile(int64_t chunk) const { return tiles_ * chunk / chunks_; }
  MemorySums of(int64_t chunk) const {
    float* keys = data_ + chunk * step_;
    float* values = keys + N_ * ld_keys_;
    return {keys, values, values + N_ * ld_values_};
  }

  // The sum of row n over the chunks, in order.
  void keys(int64_t n, double* sum, int64_t C) const { add(n * ld_keys_, sum, C); }
  void values(int64_t n, double* sum, int64_t Cv) const { add(N_ * ld_keys_ + n * ld_values_, sum, Cv); }
  double weight(int64_t n) const {
    double sum = 0;
    add(N_ * (ld_keys_ + ld_values_) + n, &sum, 1);
    return sum;
  }

 private:
  void add(int64_t offset, double* sum, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) sum[i] = 0;
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      const float* part = data_ + chunk * step_ + offset;
      for (int64_t i = 0; i < count; ++i) sum[i] += part[i];
    }
  }

  int64_t tiles_, chunks_, N_, ld_keys_, ld_values_, step_;
  float* data_;
};

float* floats(Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }
const float* floats(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }

Tensor map_like(const Tensor& map, int64_t channels, bool channels_last) {
  return empty_large_map(map.size(0), channels, map.size(2), map.size(3), map.scalar_type(), channels_last);
}

// A map for a kernel to write, in the layout that map_like gives.
FeatureMap result_map(const Tensor& t, bool channels_last) {
  return {map_of(t),
          t.size(1),
          t.size(2),
          t.size(3),
          t.scalar_type() == ScalarType::Float ? Dtype::float32 : Dtype::bfloat16,
          channels_last};
}

void check_items(const Tensor& items, int64_t N, int64_t C, const char* op, const char* argument) {
  check_dim(items, 2, op, argument);
  STD_TORCH_CHECK(items.size(0) == N && items.size(1) == C, op, ": expected ", argument, " of shape (", N, ", ", C,
                  "), got (", items.size(0), ", ", items.size(1), ")");
}

void check_temperature(double temperature, const char* op) {
  STD_TORCH_CHECK(temperature >= kMemoryMinTemperature && std::isfinite(temperature), op,
                  ": expected a finite temperature of at least ", kMemoryMinTemperature, ", got ", temperature);
}

std::tuple<Tensor, Tensor, Tensor> memory_read(Tensor content, Tensor keys, Tensor values,
                                               std::optional<Tensor> pixel_class, std::optional<Tensor> item_class,
                                               double temperature) {
  const char* op = "memory_read";
  check_temperature(temperature, op);
  const FeatureMap map = feature_map(content, op, "content");
  check_items(keys, keys.size(0), map.C, op, "keys");
  check_items(values, keys.size(0), values.size(1), op, "values");
  PackedClasses::check(pixel_class, item_class, content, keys.size(0), op);
  const int64_t N = keys.size(0), Cv = values.size(1), pixels = map.H * map.W;

  Tensor out = map_like(content, Cv, map.pixel_rows);
  Tensor cosines = new_tensor(content, {content.size(0), N, pixels}, ScalarType::Float);
  Tensor rnorm = new_tensor(content, {content.size(0), pixels}, ScalarType::Float);
  const PackedItems packed_keys(keys, 1 / temperature), packed_values(values);
  const PackedClasses classes(pixel_class, item_class);
  const MemoryReadArgs args{pixels,
                            map,
                            result_map(out, map.pixel_rows),
                            packed_keys.items(),
                            packed_values.items(),
                            classes.classes(),
                            floats(cosines),
                            floats(rnorm)};
  parallel(tiles_of(content), work_of(content, N, map.C + Cv), [&](int64_t begin, int64_t end) {
    const Scratch scratch(memory_scratch(map.C + Cv, 2, N));
    memory_kernels().read(args, scratch.data(), begin, end);
  });
  return {out, cosines, rnorm};
}

std::tuple<Tensor, Tensor, Tensor> memory_read_backward(Tensor grad, Tensor content, Tensor keys, Tensor values,
                                                        Tensor cosines, Tensor rnorm, bool need_content, bool need_keys,
                                                        bool need_values, double temperature) {
  const char* op = "memory_read";
  check_temperature(temperature, op);
  const FeatureMap map = feature_map(content, op, "content");
  const int64_t N = keys.size(0), C = map.C, Cv = values.size(1), pixels = map.H * map.W;
  check_items(keys, N, C, op, "keys");
  check_items(values, N, Cv, op, "values");
  check_map(grad, content, Cv, op, "grad");
  const FeatureMap grad_map = feature_map(grad, op, "grad");
  const Tensor saved_cosines = as_float32(cosines), saved_rnorm = as_float32(rnorm);
  STD_TORCH_CHECK(saved_cosines.numel() == content.size(0) * N * pixels && saved_rnorm.numel() == content.size(0) * pixels,
                  op, ": expected cosines (B, N, H*W) and rnorm (B, H*W) of the forward pass");

  Tensor dcontent = need_content ? map_like(content, C, map.pixel_rows)
                                 : new_tensor(content, {0, C, map.H, map.W}, content.scalar_type());
  Tensor dkeys = new_tensor(content, {need_keys ? N : 0, C}, ScalarType::Float);
  Tensor dvalues = new_tensor(content, {need_values ? N : 0, Cv}, ScalarType::Float);
  const PackedItems packed_keys(keys, 1 / temperature), packed_values(values);
  const MemoryReadBackwardArgs args{pixels,
                                    map,
                                    grad_map,
                                    need_content ? result_map(dcontent, map.pixel_rows)
                                                 : FeatureMap{no_map(), C, 1, 1, Dtype::float32, false},
                                    packed_keys.items(),
                                    packed_values.items(),
                                    floats(saved_cosines),
                                    floats(saved_rnorm),
                                    need_content,
                                    need_keys,
                                    need_values};
  const ChunkSums sums(tiles_of(content), N, need_keys ? C : 0, need_values ? Cv : 0);
  parallel(sums.chunks(), work_of(content, N, 2 * (C + Cv)), [&](int64_t begin, int64_t end) {
    const Scratch scratch(memory_scratch(2 * C + Cv, 3, N));
    for (int64_t chunk = begin; chunk < end; ++chunk)
      memory_kernels().read_backward(args, sums.of(chunk), scratch.data(), sums.first_tile(chunk),
                                     sums.first_tile(chunk + 1));
  });
  parallel(N, sums.chunks() * (C + Cv), [&](int64_t begin, int64_t end) {
    std::vector<double> row(std::max(C, Cv));
    for (int64_t n = begin; n < end; ++n) {
      if (need_keys) {  // undo the scaling to length 1/τ: the component along the key drops out
        sums.keys(n, row.data(), C);
        const float* key = packed_keys.row(n);
        double along = 0;
        for (int64_t c = 0; c < C; ++c) along += row[c] * key[c];
        along *= temperature * temperature;
        for (int64_t c = 0; c < C; ++c) floats(dkeys)[n * C + c] = float((row[c] - along * key[c]) * packed_keys.factor(n));
      }
      if (need_values) {
        sums.values(n, row.data(), Cv);
        for (int64_t c = 0; c < Cv; ++c) floats(dvalues)[n * Cv + c] = float(row[c]);
      }
    }
  });
  return {dcontent, dkeys, dvalues};
}

// One domain of an update, with what its chunks of tiles need.
struct Domain {
  MemoryUpdateArgs args;
  std::unique_ptr<PackedClasses> classes;
  std::unique_ptr<ChunkSums> sums;
  int64_t first_chunk, Cv;
};

// `to` becomes (to + sum / weight), scaled to unit length.
void add_and_normalise(float* to, double* sum, int64_t C) {
  double squares = 0;
  for (int64_t c = 0; c < C; ++c) {
    sum[c] += to[c];
    squares += sum[c] * sum[c];
  }
  const double scale = reciprocal_of_norm(std::sqrt(squares));
  for (int64_t c = 0; c < C; ++c) to[c] = float(sum[c] * scale);
}

std::tuple<Tensor, Tensor> memory_update(Tensor keys, Tensor values, std::vector<Tensor> contents,
                                         std::vector<Tensor> styles, std::vector<Tensor> pixel_classes,
                                         std::optional<Tensor> item_class, double temperature) {
  const char* op = "memory_update";
  check_temperature(temperature, op);
  check_dim(keys, 2, op, "keys");
  check_dim(values, 3, op, "values");
  const int64_t D = values.size(0), N = keys.size(0), C = keys.size(1), Cv = values.size(2);
  STD_TORCH_CHECK(values.size(1) == N, op, ": expected values of shape (D, N, Cv), got ", values.size(1), " items for ", N,
                  " keys");
  STD_TORCH_CHECK(int64_t(contents.size()) == D && int64_t(styles.size()) == D, op, ": expected one map per domain, ", D,
                  ", got ", contents.size(), " contents and ", styles.size(), " styles");
  STD_TORCH_CHECK(pixel_classes.empty() || int64_t(pixel_classes.size()) == D, op,
                  ": expected one of pixel_classes per domain");

  const PackedItems packed_keys(keys, 1 / temperature);
  std::vector<Domain> domains;
  int64_t chunks = 0, work = 1, scratch_floats = 0;
  for (int64_t d = 0; d < D; ++d) {
    check_map(contents[d], contents[d], C, op, "contents");
    check_map(styles[d], contents[d], Cv, op, "styles");
    const std::optional<Tensor> pixel_class =
        pixel_classes.empty() ? std::nullopt : std::optional<Tensor>(pixel_classes[d]);
    PackedClasses::check(pixel_class, item_class, contents[d], N, op);
    auto classes = std::make_unique<PackedClasses>(pixel_class, item_class);
    auto sums = std::make_unique<ChunkSums>(tiles_of(contents[d]), N, C, Cv);
    const MemoryUpdateArgs args{contents[d].size(2) * contents[d].size(3), feature_map(contents[d], op, "contents"),
                                feature_map(styles[d], op, "styles"), packed_keys.items(), classes->classes()};
    const int64_t count = sums->chunks();
    domains.push_back({args, std::move(classes), std::move(sums), chunks, Cv});
    chunks += count;
    work = std::max(work, work_of(contents[d], N, 2 * C + Cv));
    scratch_floats = std::max(scratch_floats, memory_scratch(C + Cv, 2, N));
  }
  parallel(chunks, work, [&](int64_t begin, int64_t end) {
    const Scratch scratch(scratch_floats);
    size_t d = 0;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (d + 1 < domains.size() && domains[d + 1].first_chunk <= chunk) ++d;
      const ChunkSums& sums = *domains[d].sums;
      const int64_t own = chunk - domains[d].first_chunk;
      memory_kernels().update(domains[d].args, sums.of(own), scratch.data(), sums.first_tile(own),
                              sums.first_tile(own + 1));
    }
  });

  Tensor new_keys = torch::stable::clone(as_float32(keys)), new_values = torch::stable::clone(as_float32(values));
  parallel(N, (chunks + 1) * (C + Cv), [&](int64_t begin, int64_t end) {
    std::vector<double> key(C), row(std::max(C, Cv));
    for (int64_t n = begin; n < end; ++n) {
      bool addressed = false;
      for (int64_t c = 0; c < C; ++c) key[c] = 0;
      for (int64_t d = 0; d < D; ++d) {
        const ChunkSums& sums = *domains[d].sums;
        const double weight = sums.weight(n);
        if (weight == 0) continue;
        addressed = true;
        sums.keys(n, row.data(), C);
        for (int64_t c = 0; c < C; ++c) key[c] += row[c] / weight;
        sums.values(n, row.data(), Cv);
        for (int64_t c = 0; c < Cv; ++c) row[c] /= weight;
        add_and_normalise(floats(new_values) + (d * N + n) * Cv, row.data(), Cv);
      }
      if (addressed) add_and_normalise(floats(new_keys) + n * C, key.data(), C);
    }
  });
  return {torch::stable::to(new_keys, keys.scalar_type()), torch::stable::to(new_values, values.scalar_type())};
}

std::tuple<Tensor, Tensor, Tensor> memory_contrast(Tensor features, Tensor items, double temperature,
                                                   std::optional<Tensor> pixel_class, std::optional<Tensor> item_class) {
  const char* op = "memory_contrast";
  const FeatureMap map = feature_map(features, op, "features");
  const int64_t B = features.size(0), N = items.size(0), pixels = map.H * map.W;
  check_items(items, N, map.C, op, "items");
  STD_TORCH_CHECK(N > 0, op, ": expected at least one item");
  PackedClasses::check(pixel_class, item_class, features, N, op);
  Tensor loss = new_tensor(features, {B, map.H, map.W}, ScalarType::Float);
  Tensor logit_grad = new_tensor(features, {B, N, pixels}, ScalarType::Float);
  Tensor counted = new_tensor(features, {}, ScalarType::Long);
  const PackedItems packed(items);
  const PackedClasses classes(pixel_class, item_class);
  const MemoryContrastArgs args{
      pixels, map, packed.items(), classes.classes(), float(1 / temperature), floats(loss), floats(logit_grad)};
  const int64_t tiles = tiles_of(features);
  std::vector<int64_t> counts(tiles);
  parallel(tiles, work_of(features, N, map.C), [&](int64_t begin, int64_t end) {
    const Scratch scratch(memory_scratch(map.C, 1, N));
    counts[begin] = memory_kernels().contrast(args, scratch.data(), begin, end);
  });
  int64_t total = 0;
  for (const int64_t count : counts) total += count;
  *static_cast<int64_t*>(counted.mutable_data_ptr()) = total;
  return {loss, logit_grad, counted};
}

std::tuple<Tensor, Tensor> memory_contrast_backward(Tensor grad, Tensor features, Tensor items, Tensor logit_grad,
                                                    double temperature, bool need_features, bool need_items) {
  const char* op = "memory_contrast";
  const FeatureMap map = feature_map(features, op, "features");
  const int64_t B = features.size(0), N = items.size(0), C = map.C, pixels = map.H * map.W;
  check_items(items, N, C, op, "items");
  const Tensor g = as_float32(grad), saved = as_float32(logit_grad);
  STD_TORCH_CHECK(g.numel() == B * pixels && saved.numel() == B * N * pixels, op,
                  ": expected grad (B, H, W) and logit_grad (B, N, H*W) of the forward pass");
  Tensor dfeatures = need_features ? map_like(features, C, map.pixel_rows)
                                   : new_tensor(features, {0, C, map.H, map.W}, features.scalar_type());
  Tensor ditems = new_tensor(features, {need_items ? N : 0, C}, ScalarType::Float);
  const PackedItems packed(items);
  const MemoryContrastBackwardArgs args{pixels,
                                        map,
                                        need_features ? result_map(dfeatures, map.pixel_rows)
                                                      : FeatureMap{no_map(), C, 1, 1, Dtype::float32, false},
                                        packed.items(),
                                        floats(g),
                                        floats(saved),
                                        float(1 / temperature),
                                        need_features,
                                        need_items};
  const ChunkSums sums(tiles_of(features), N, need_items ? C : 0, 0);
  parallel(sums.chunks(), work_of(features, N, 2 * C), [&](int64_t begin, int64_t end) {
    const Scratch scratch(memory_scratch(2 * C, 2, N));
    for (int64_t chunk = begin; chunk < end; ++chunk)
      memory_kernels().contrast_backward(args, sums.of(chunk), scratch.data(), sums.first_tile(chunk),
                                         sums.first_tile(chunk + 1));
  });
  if (need_items) {
    std::vector<double> row(C);
    for (int64_t n = 0; n < N; ++n) {
      sums.keys(n, row.data(), C);
      for (int64_t c = 0; c < C; ++c) floats(ditems)[n * C + c] = float(row[c]);
    }
  }
  return {dfeatures, ditems};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_memory_read", TORCH_BOX(&cgcl::memory_read));
  m.impl("_memory_read_backward", TORCH_BOX(&cgcl::memory_read_backward));
  m.impl("_memory_update", TORCH_BOX(&cgcl::memory_update));
  m.impl("_memory_contrast", TORCH_BOX(&cgcl::memory_contrast));
  m.impl("_memory_contrast_backward", TORCH_BOX(&cgcl::memory_contrast_backward));
}
