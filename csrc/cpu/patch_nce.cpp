// cgcl_fast::_patch_nce, _patch_nce_layers and their backward on the CPU. The logits exist one tile of rows at a time: the
// tensor library multiplies the matrices, and kernels/patch_nce.cpp does everything in between while the tile is in the cache.
//
// The forward and backward pass compute a tile's products with the same call, hence with the same rounding. Otherwise, with
// logits of 10^6, whose last digit is more than 1, the recomputed weights would not match the saved denominator. The split
// into tiles depends on shapes only, and each matrix product runs on one thread: results do not depend on the thread count.
#include "kernels/patch_nce.h"

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "scratch.h"
#include "tensor.h"

namespace cgcl {
namespace {

constexpr const char* kOp = "patch_nce";

struct Shape {
  int64_t B, P, C, M;
};

Shape check(const Tensor& query, const Tensor& key, const std::optional<Tensor>& extra) {
  check_dim(query, 3, kOp, "query");
  check_dim(key, 3, kOp, "key");
  const Shape shape{query.size(0), query.size(1), query.size(2), extra.has_value() ? extra->size(0) : 0};
  STD_TORCH_CHECK(key.size(0) == shape.B && key.size(1) == shape.P && key.size(2) == shape.C,
                  "patch_nce: expected query and key of the same shape (B, P, C)");
  dtype_of(query, kOp, "query");
  dtype_of(key, kOp, "key");
  if (extra.has_value()) {
    check_dim(*extra, 2, kOp, "extra_negatives");
    dtype_of(*extra, kOp, "extra_negatives");
    STD_TORCH_CHECK(extra->size(1) == shape.C, "patch_nce: expected extra_negatives of shape (M, ", shape.C, ")");
  }
  return shape;
}

KeyNegatives negatives_of(const std::string& negatives, const std::optional<Tensor>& offsets) {
  if (offsets.has_value()) return KeyNegatives::offsets;
  if (negatives == "none") return KeyNegatives::none;
  STD_TORCH_CHECK(negatives == "all", "patch_nce: expected negatives 'all' or 'none', got '", negatives, "'");
  return KeyNegatives::all;
}

// mask[d + count] for d = t - s in (-count, count): 1 if key t is in the denominator of query s.
std::vector<float> offset_mask(const std::optional<Tensor>& offsets, int64_t count, bool decoupled) {
  if (!offsets.has_value()) return {};
  check_dim(*offsets, 1, kOp, "offsets");
  STD_TORCH_CHECK(offsets->scalar_type() == ScalarType::Long, "patch_nce: expected offsets of dtype int64");
  const Tensor listed = dense(*offsets);
  const int64_t* values = static_cast<const int64_t*>(listed.const_data_ptr());
  std::vector<float> mask(2 * count, 0.0f);
  const auto set = [&](int64_t d) { mask[d] = mask[d + count] = 1.0f; };
  if (!decoupled && count > 0) set(0);
  for (int64_t i = 0; i < listed.numel(); ++i) {
    STD_TORCH_CHECK(values[i] >= 1 && values[i] < count, "patch_nce: expected offsets between 1 and ", count - 1,
                    " (the other keys), got ", values[i]);
    set(values[i]);
  }
  return mask;
}

float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

// A (rows, columns) float32 view of foreign memory with row stride `ld`, or its transpose. Built from plain data, so that
// worker threads need no autograd state.
Tensor matrix(const float* data, int64_t rows, int64_t columns, int64_t ld, bool transposed) {
  using torch::headeronly::DeviceType;
  const torch::stable::Device cpu(DeviceType::CPU);
  float* memory = const_cast<float*>(data);
  return transposed ? torch::stable::from_blob(memory, {columns, rows}, {1, ld}, cpu, ScalarType::Float)
                    : torch::stable::from_blob(memory, {rows, columns}, {ld, 1}, cpu, ScalarType::Float);
}

void multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a), from(b), from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes back the reference that the call returned
}

// out (m, n) = a (m, k) · b (k, n), where b lies in memory as (n, k) if transposed.
void product(float* out, const float* a, const float* b, int64_t m, int64_t k, int64_t n, bool b_transposed) {
  if (m == 0 || n == 0) return;
  multiply(matrix(a, m, k, k, false), b_transposed ? matrix(b, n, k, k, true) : matrix(b, k, n, n, false),
           matrix(out, m, n, n, false));
}

// out (m, n) = aᵀ · b, for a (k, m) with row stride `lda` and b (k, n).
void product_over_rows(float* out, const float* a, int64_t lda, const float* b, int64_t m, int64_t k, int64_t n) {
  if (m == 0 || n == 0) return;
  multiply(matrix(a, k, m, lda, true), matrix(b, k, n, n, false), matrix(out, m, n, n, false));
}

void add(float* to, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += values[i];
}

// body(i, scratch) for i in [0, count), only on worker threads if there are several, because there a matrix product uses a
// single thread. Each thread has `floats` of scratch.
template <class F>
void for_each(int64_t count, int64_t floats, const F& body) {
  const auto range = [&](int64_t begin, int64_t end) {
    if (begin >= count) return;
    const Scratch scratch(floats);
    for (int64_t i = begin; i < std::min(end, count); ++i) body(i, scratch.data());
  };
  if (count > 0) torch::stable::parallel_for(0, std::max<int64_t>(count, 2), 1, range);
}

// Rows per tile: its logits fit a core's L2 cache, and there are enough tiles for a few threads.
int64_t tile_rows(int64_t total_rows, int64_t columns) {
  const int64_t cached = (int64_t(1) << 18) / std::max<int64_t>(1, columns), shared = (total_rows + 3) / 4;
  return std::max<int64_t>(8, std::min<int64_t>({cached, shared, 128}));
}

constexpr int64_t kWeights = int64_t(1) << 20;  // how many weights to buffer for the gradient to the keys

// How many keys to form the gradient of at a time: enough blocks for a few threads.
int64_t owner_rows(int64_t total_rows) { return std::clamp<int64_t>((total_rows + 3) / 4, 8, 256); }

// float32 rows, normalised to v/(‖v‖ + 1e-7) if requested.
struct Rows {
  Tensor values;
  Tensor norms;
  const float* data = nullptr;
  const float* norm = nullptr;

  Rows(const Tensor& input, bool normalize) : values(as_float32(input)) {
    data = floats(values);
    if (!normalize) return;
    const int64_t channels = values.size(values.dim() - 1), rows = channels == 0 ? 0 : values.numel() / channels;
    const Tensor raw = values;
    values = torch::stable::empty_like(raw);
    norms = new_tensor(raw, {rows}, ScalarType::Float);
    const float* source = floats(raw);
    float *target = floats(values), *norm_target = floats(norms);
    parallel(rows, channels, [&](int64_t begin, int64_t end) {
      patch_nce_kernels().normalise(
          {end - begin, channels, source + begin * channels, target + begin * channels, norm_target + begin});
    });
    data = target;
    norm = norm_target;
  }

  void undo(float* grad, int64_t first, int64_t rows, int64_t channels) const {
    if (norm != nullptr) patch_nce_kernels().normalise_grad({rows, channels, data + first * channels, norm + first, grad});
  }
};

// What all layers of a call share.
struct Options {
  double temperature;
  std::string negatives;
  bool decoupled, normalize;
};

// The gradients that a pass forms and what it needs for them; null if not requested.
struct Gradients {
  float *query, *key, *extra;
  bool to_owners() const { return key != nullptr || extra != nullptr; }
};

// A layer's vectors, cut into tiles.
class Layer {
 public:
  Layer(const Tensor& query, const Tensor& key, const std::optional<Tensor>& extra, const std::optional<Tensor>& offsets,
        const Options& options)
      : shape_(check(query, key, extra)), kind_(negatives_of(options.negatives, offsets)), decoupled_(options.decoupled),
        inverse_temperature_(1.0 / options.temperature), mask_(offset_mask(offsets, shape_.P, options.decoupled)),
        q_(query, options.normalize), k_(key, options.normalize) {
    if (shape_.M > 0) e_.emplace(*extra, options.normalize);
    keys_ = kind_ == KeyNegatives::none ? 0 : shape_.P;
    const int64_t negatives = kind_ == KeyNegatives::all ? shape_.P - 1 : offsets.has_value() ? offsets->numel() : 0;
    contrasted_ = !decoupled_ || negatives + shape_.M > 0;
    tile_ = tile_rows(shape_.B * shape_.P, keys_ + shape_.M);
  }

  // Whether the denominator has any term. A decoupled loss without negatives has none, and is 0.
  bool contrasted() const { return contrasted_; }

  // visit(kernel's tile, its first row in the layer) when the products of a tile are ready. If any of `to` is requested, visit
  // replaces the products by the gradients to them.
  template <class F>
  void each_tile(const Gradients& to, const F& visit) const {
    const auto [B, P, C, M] = shape_;
    if (B * P == 0) return;
    // The gradient to a key is a sum over queries. Process as many queries at a time as the weight buffer holds: whole images,
    // or whole tiles of one image.
    const int64_t columns = keys_ + M + 1, room = std::max(tile_, kWeights / columns);
    const int64_t images = to.to_owners() ? std::clamp<int64_t>(room / P, 1, B) : B;
    const int64_t part = to.to_owners() && room < P ? room / tile_ * tile_ : P;
    const Scratch weights(to.to_owners() ? images * part * columns : 0);
    for (int64_t image = 0; image < B; image += images)
      for (int64_t first = 0; first < P; first += part) {
        const Block block{image, std::min(images, B - image), first, std::min(part, P - first)};
        form_weights(block, to, to.to_owners() ? weights.data() : nullptr, visit);
        if (to.key != nullptr) add_key_gradient(block, weights.data(), to.key);
        if (to.extra != nullptr) add_extra_gradient(block, weights.data() + block.size() * keys_, to.extra);
      }
  }

 private:
  // `rows` queries from `first` on of each of `images` images. Weights are stored as (images·rows, keys), then
  // (images·rows, M), then for KeyNegatives::none those of the positives.
  struct Block {
    int64_t image, images, first, rows;
    int64_t size() const { return images * rows; }
  };

  template <class F>
  void form_weights(const Block& block, const Gradients& to, float* weights, const F& visit) const {
    const int64_t keys = keys_, M = shape_.M, P = shape_.P, C = shape_.C, tile = tile_;
    const int64_t tiles = (block.rows + tile - 1) / tile;
    const bool own_room = weights == nullptr;
    const int64_t floats = (own_room ? keys + M + 1 : 0) + (to.query != nullptr && M > 0 ? C : 0);
    for_each(block.images * tiles, std::min(tile, block.rows) * floats, [&](int64_t i, float* scratch) {
      const int64_t image = block.image + i / tiles, first = block.first + i % tiles * tile;
      const int64_t rows = std::min(tile, block.first + block.rows - first), start = image * P + first;
      const int64_t row = i / tiles * block.rows + first - block.first;  // in the block
      float* products = own_room ? scratch : weights + row * keys;
      float* extra_products = own_room ? products + rows * keys : weights + block.size() * keys + row * M;
      float* own = own_room ? extra_products + rows * M : weights + block.size() * (keys + M) + row;
      float* room = own_room ? own + rows : scratch;
      const float *q = q_.data + start * C, *k = k_.data + start * C, *k_image = k_.data + image * P * C;
      product(products, q, k_image, rows, C, keys, true);
      if (M > 0) product(extra_products, q, e_->data, rows, C, M, true);
      visit(NceTile{rows, first, P, M, C, kind_, decoupled_, inverse_temperature_, mask_.data(), products, extra_products,
                    own, q, k},
            start);
      if (to.query == nullptr) return;
      float* g = to.query + start * C;
      if (keys > 0) {
        product(g, products, k_image, rows, keys, C, false);
      } else {
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < C; ++c) g[r * C + c] = own[r] * k[r * C + c];
      }
      if (M > 0) {
        product(room, extra_products, e_->data, rows, M, C, false);
        add(g, room, rows * C);
      }
      q_.undo(g, start, rows, C);
    });
  }

  // Adds the sums over a block's queries for some keys at a time. Blocks are added in order.
  void add_key_gradient(const Block& block, const float* weights, float* to) const {
    const int64_t keys = keys_, P = shape_.P, C = shape_.C;
    const int64_t owners = owner_rows(block.images * P), parts = (P + owners - 1) / owners;
    const float* own = weights + block.size() * (keys + shape_.M);
    for_each(block.images * parts, owners * C, [&](int64_t i, float* scratch) {
      const int64_t image = i / parts, first = i % parts * owners, count = std::min(owners, P - first);
      const int64_t start = (block.image + image) * P + block.first;
      float* g = to + ((block.image + image) * P + first) * C;
      if (keys == 0) {
        const float* q = q_.data + (start - block.first + first) * C;
        for (int64_t t = 0; t < count; ++t)
          for (int64_t c = 0; c < C && first + t >= block.first && first + t < block.first + block.rows; ++c)
            g[t * C + c] = own[image * block.rows + first + t - block.first] * q[t * C + c];
      } else {
        add_product(g, weights + image * block.rows * keys + first, keys, q_.data + start * C, count, block.rows,
                    block.first > 0 ? scratch : nullptr);
      }
      if (block.first + block.rows == P) k_.undo(g, start - block.first + first, count, C);
    });
  }

  void add_extra_gradient(const Block& block, const float* weights, float* to) const {
    const int64_t M = shape_.M, P = shape_.P, C = shape_.C;
    const int64_t owners = owner_rows(M), parts = (M + owners - 1) / owners;
    const bool later = block.image > 0 || block.first > 0;
    const bool last = block.image + block.images == shape_.B && block.first + block.rows == P;
    for_each(parts, owners * C, [&](int64_t i, float* scratch) {
      const int64_t first = i * owners, count = std::min(owners, M - first);
      add_product(to + first * C, weights + first, M, q_.data + (block.image * P + block.first) * C, count, block.size(),
                  later ? scratch : nullptr);
      if (last) e_->undo(to + first * C, first, count, C);
    });
  }

  // to (count, C) = weightsᵀ · q, for `count` columns of weights (rows, ld) and q (rows, C). If scratch for the product is
  // given, adds instead: to += weightsᵀ · q.
  void add_product(float* to, const float* weights, int64_t ld, const float* q, int64_t count, int64_t rows,
                   float* scratch) const {
    const int64_t C = shape_.C;
    product_over_rows(scratch != nullptr ? scratch : to, weights, ld, q, count, rows, C);
    if (scratch != nullptr) add(to, scratch, count * C);
  }

  Shape shape_;
  KeyNegatives kind_;
  bool decoupled_, contrasted_;
  double inverse_temperature_;
  std::vector<float> mask_;
  Rows q_, k_;
  std::optional<Rows> e_;
  int64_t keys_, tile_;  // number of keys that each query is multiplied with; rows per tile
};

void fill(float* data, int64_t count, float value) {
  if (data != nullptr) std::fill(data, data + count, value);
}

// A layer's forward results; grad and dkey are null if not requested.
struct Forward {
  float *loss, *m, *inverse_l, *grad, *dkey;
};

void forward_layer(const Tensor& query, const Tensor& key, const std::optional<Tensor>& extra,
                   const std::optional<Tensor>& offsets, const Options& options, const Forward& out) {
  const Layer layer(query, key, extra, offsets, options);
  const int64_t rows = query.size(0) * query.size(1), size = query.numel();
  if (!layer.contrasted()) {
    for (float* data : {out.loss, out.m, out.inverse_l}) fill(data, rows, 0);
    for (float* data : {out.grad, out.dkey}) fill(data, size, 0);
    return;
  }
  const Gradients to{out.grad, out.dkey, nullptr};
  const bool weights = out.grad != nullptr || out.dkey != nullptr;
  layer.each_tile(to, [&](const NceTile& tile, int64_t start) {
    patch_nce_kernels().rows({tile, out.loss + start, out.m + start, out.inverse_l + start, weights});
  });
}

// A layer's inputs and results in the backward pass; results that are not needed are null.
struct Backward {
  const float *grad, *m, *inverse_l, *unit_grad, *unit_key_grad;
  float *dquery, *dkey, *dextra;
};

void backward_layer(const Tensor& query, const Tensor& key, const std::optional<Tensor>& extra,
                    const std::optional<Tensor>& offsets, const Options& options, const Backward& io) {
  const int64_t rows = query.size(0) * query.size(1), channels = query.size(2);
  const float* g = io.grad;
  if (io.dquery != nullptr) {
    const float* source = io.unit_grad;
    float* target = io.dquery;
    parallel(rows, channels, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < channels; ++c) target[r * channels + c] = source[r * channels + c] * g[r];
    });
  }
  // The forward pass formed the gradient of Σloss. It was only asked to where all losses have the same upstream gradient.
  if (io.dkey != nullptr && io.unit_key_grad != nullptr && rows > 0) {
    const float *source = io.unit_key_grad, factor = g[0];
    float* target = io.dkey;
    parallel(rows * channels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) target[i] = source[i] * factor;
    });
  }
  const Gradients to{nullptr, io.unit_key_grad == nullptr ? io.dkey : nullptr,
                     extra.has_value() && extra->size(0) > 0 ? io.dextra : nullptr};
  if (!to.to_owners()) return;
  const Layer layer(query, key, extra, offsets, options);
  if (rows == 0 || !layer.contrasted()) {
    fill(to.key, rows * channels, 0);
    fill(to.extra, extra.has_value() ? extra->numel() : 0, 0);
    return;
  }
  layer.each_tile(to, [&](const NceTile& tile, int64_t start) {
    patch_nce_kernels().weights({tile, io.m + start, io.inverse_l + start, g + start});
  });
}

// Layers whose results are stored one after the other in one tensor per kind.
struct Layers {
  const std::vector<Tensor>&queries, &keys, &extras, &offsets;
  int64_t rows = 0, size = 0, extra_size = 0;

  Layers(const std::vector<Tensor>& queries, const std::vector<Tensor>& keys, const std::vector<Tensor>& extras,
         const std::vector<Tensor>& offsets)
      : queries(queries), keys(keys), extras(extras), offsets(offsets) {
    const size_t n = queries.size();
    STD_TORCH_CHECK(n > 0 && keys.size() == n && (extras.empty() || extras.size() == n) &&
                        (offsets.empty() || offsets.size() == n),
                    "patch_nce_layers: expected one of each list for every layer");
    for (size_t i = 0; i < n; ++i) {
      const auto [B, P, C, M] = check(queries[i], keys[i], extra(i));
      rows += B * P;
      size += B * P * C;
      extra_size += M * C;
    }
  }

  std::optional<Tensor> extra(size_t i) const { return extras.empty() ? std::nullopt : std::optional<Tensor>(extras[i]); }
  std::optional<Tensor> offset(size_t i) const {
    return offsets.empty() ? std::nullopt : std::optional<Tensor>(offsets[i]);
  }

  // body(layer, its first row, its first element in query and key, its first element in extra)
  template <class F>
  void each(const F& body) const {
    int64_t row = 0, element = 0, extra_element = 0;
    for (size_t i = 0; i < queries.size(); ++i) {
      body(i, row, element, extra_element);
      row += queries[i].size(0) * queries[i].size(1);
      element += queries[i].numel();
      extra_element += extras.empty() ? 0 : extras[i].numel();
    }
  }
};

inline float* at(float* data, bool there, int64_t offset) { return there ? data + offset : nullptr; }

// For all layers, in float32: losses (R,) of all R rows; denominator (2, R) as row maxima m and 1/l with
// l = Σexp((product - m)/τ); d loss_s / d query_s; d Σloss / d key. Gradients are empty if not requested; the gradient to
// the keys is that of the sum over its layer.
struct Losses {
  Tensor loss, denominator, grad, dkey;
};

void form_losses(const Layers& layers, const Options& options, const Losses& out) {
  float *losses = floats(out.loss), *m = floats(out.denominator), *grads = floats(out.grad), *dkeys = floats(out.dkey);
  const bool query_grad = out.grad.numel() > 0, key_grad = out.dkey.numel() > 0;
  layers.each([&](size_t i, int64_t row, int64_t element, int64_t) {
    const bool any = layers.queries[i].numel() > 0;
    forward_layer(layers.queries[i], layers.keys[i], layers.extra(i), layers.offset(i), options,
                  {losses + row, m + row, m + layers.rows + row, at(grads, query_grad && any, element),
                   at(dkeys, key_grad && any, element)});
  });
}

// d query, d key and d extra of Σ grad·loss (float32) for all layers, each empty if not requested.
struct InputGradients {
  Tensor dquery, dkey, dextra;
};

struct Saved {
  const Tensor &grad, &denominator, &unit_grad, &unit_key_grad;
  bool need_query, need_key, need_extra;
};

void form_gradients(const Layers& layers, const Options& options, const Saved& saved, const InputGradients& out) {
  STD_TORCH_CHECK(saved.grad.numel() == layers.rows, "patch_nce: expected grad of shape (B, P)");
  STD_TORCH_CHECK(saved.denominator.numel() == 2 * layers.rows, "patch_nce: expected denominator of shape (2, B, P)");
  STD_TORCH_CHECK(!saved.need_query || saved.unit_grad.numel() == layers.size,
                  "patch_nce: expected the query's gradient from the forward pass");
  const bool key_formed = saved.need_key && saved.unit_key_grad.numel() > 0;
  STD_TORCH_CHECK(!key_formed || saved.unit_key_grad.numel() == layers.size,
                  "patch_nce: expected the keys' gradient from the forward pass");
  const Tensor upstream = as_float32(saved.grad), denominator = as_float32(saved.denominator),
               unit = as_float32(saved.unit_grad), key_unit = as_float32(saved.unit_key_grad);
  float *g = floats(upstream), *m = floats(denominator), *units = floats(unit), *key_units = floats(key_unit);
  float *dqueries = floats(out.dquery), *dkeys = floats(out.dkey), *dextras = floats(out.dextra);
  layers.each([&](size_t i, int64_t row, int64_t element, int64_t extra_element) {
    backward_layer(layers.queries[i], layers.keys[i], layers.extra(i), layers.offset(i), options,
                   {g + row, m + row, m + layers.rows + row, at(units, saved.need_query, element),
                    at(key_units, key_formed, element), at(dqueries, saved.need_query, element),
                    at(dkeys, saved.need_key, element), at(dextras, saved.need_extra, extra_element)});
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> patch_nce_layers(std::vector<Tensor> queries, std::vector<Tensor> keys,
                                                            std::vector<Tensor> extras, std::vector<Tensor> offsets,
                                                            double temperature, std::string negatives, bool decoupled,
                                                            bool normalize, bool query_grad, bool key_grad) {
  const Layers layers(queries, keys, extras, offsets);
  const auto result = [&](auto... sizes) { return new_tensor(queries[0], {sizes...}, ScalarType::Float); };
  const Losses out{result(layers.rows), result(int64_t(2), layers.rows), result(query_grad ? layers.size : 0),
                   result(key_grad ? layers.size : 0)};
  form_losses(layers, {temperature, negatives, decoupled, normalize}, out);
  return {out.loss, out.denominator, out.grad, out.dkey};
}

std::tuple<Tensor, Tensor, Tensor> patch_nce_layers_backward(Tensor grad, std::vector<Tensor> queries,
                                                             std::vector<Tensor> keys, std::vector<Tensor> extras,
                                                             std::vector<Tensor> offsets, Tensor denominator,
                                                             Tensor unit_grad, Tensor unit_key_grad, double temperature,
                                                             std::string negatives, bool decoupled, bool normalize,
                                                             bool need_query, bool need_key, bool need_extra) {
  const Layers layers(queries, keys, extras, offsets);
  const auto result = [&](int64_t size) { return new_tensor(queries[0], {size}, ScalarType::Float); };
  const InputGradients out{result(need_query ? layers.size : 0), result(need_key ? layers.size : 0),
                           result(need_extra ? layers.extra_size : 0)};
  form_gradients(layers, {temperature, negatives, decoupled, normalize},
                 {grad, denominator, unit_grad, unit_key_grad, need_query, need_key, need_extra}, out);
  return {out.dquery, out.dkey, out.dextra};
}

// A single layer, whose results keep its shapes.
struct OneLayer {
  std::vector<Tensor> query, key, extra, offsets;

  OneLayer(const Tensor& query, const Tensor& key, const std::optional<Tensor>& extra, const std::optional<Tensor>& offsets)
      : query{query}, key{key} {
    if (extra.has_value()) this->extra.push_back(*extra);
    if (offsets.has_value()) this->offsets.push_back(*offsets);
  }
  Layers layers() const { return Layers(query, key, extra, offsets); }
  Tensor result(std::initializer_list<int64_t> sizes) const { return new_tensor(query[0], sizes, ScalarType::Float); }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> patch_nce(Tensor query, Tensor key, std::optional<Tensor> extra,
                                                     std::optional<Tensor> offsets, double temperature,
                                                     std::string negatives, bool decoupled, bool normalize, bool query_grad,
                                                     bool key_grad) {
  const OneLayer layer(query, key, extra, offsets);
  const Layers layers = layer.layers();
  const auto [B, P, C, M] = check(query, key, extra);
  const Losses out{layer.result({B, P}), layer.result({2, B, P}), layer.result({query_grad ? B : 0, P, C}),
                   layer.result({key_grad ? B : 0, P, C})};
  form_losses(layers, {temperature, negatives, decoupled, normalize}, out);
  return {out.loss, out.denominator, out.grad, out.dkey};
}

std::tuple<Tensor, Tensor, Tensor> patch_nce_backward(Tensor grad, Tensor query, Tensor key, std::optional<Tensor> extra,
                                                      std::optional<Tensor> offsets, Tensor denominator, Tensor unit_grad,
                                                      Tensor unit_key_grad, double temperature, std::string negatives,
                                                      bool decoupled, bool normalize, bool need_query, bool need_key,
                                                      bool need_extra) {
  const OneLayer layer(query, key, extra, offsets);
  const Layers layers = layer.layers();
  const auto [B, P, C, M] = check(query, key, extra);
  const InputGradients out{layer.result({need_query ? B : 0, P, C}), layer.result({need_key ? B : 0, P, C}),
                           layer.result({need_extra ? M : 0, C})};
  form_gradients(layers, {temperature, negatives, decoupled, normalize},
                 {grad, denominator, unit_grad, unit_key_grad, need_query, need_key, need_extra}, out);
  return {out.dquery, out.dkey, out.dextra};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_patch_nce", TORCH_BOX(&cgcl::patch_nce));
  m.impl("_patch_nce_backward", TORCH_BOX(&cgcl::patch_nce_backward));
  m.impl("_patch_nce_layers", TORCH_BOX(&cgcl::patch_nce_layers));
  m.impl("_patch_nce_layers_backward", TORCH_BOX(&cgcl::patch_nce_layers_backward));
}
