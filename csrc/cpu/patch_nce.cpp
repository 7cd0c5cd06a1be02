// cgcl_fast::_patch_nce, _patch_nce_layers and their backward on the CPU. Logits exist a tile of rows at a time: matrix products by
// the tensor library, everything between them by kernels/patch_nce.cpp while the tile is in the cache.
#include "kernels/patch_nce.h"

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

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

// mask[d + count] for d = t - s in (-count, count): 1 where key t is in the denominator of query s. `sign` -1 mirrors it.
std::vector<float> offset_mask(const std::optional<Tensor>& offsets, int64_t count, bool decoupled, int sign) {
  if (!offsets.has_value()) return {};
  check_dim(*offsets, 1, kOp, "offsets");
  STD_TORCH_CHECK(offsets->scalar_type() == ScalarType::Long, "patch_nce: expected offsets of dtype int64");
  const Tensor dense = torch::stable::contiguous(*offsets);
  const int64_t* values = static_cast<const int64_t*>(dense.const_data_ptr());
  std::vector<float> mask(2 * count, 0.0f);
  const auto set = [&](int64_t d) {
    d = (sign * d % count + count) % count;
    mask[d] = mask[d + count] = 1.0f;
  };
  if (!decoupled && count > 0) set(0);
  for (int64_t i = 0; i < dense.numel(); ++i) {
    STD_TORCH_CHECK(values[i] >= 1 && values[i] < count, "patch_nce: expected offsets between 1 and ", count - 1,
                    " (the other keys), got ", values[i]);
    set(values[i]);
  }
  return mask;
}

float* floats(const Tensor& t) { return static_cast<float*>(t.mutable_data_ptr()); }

// A (rows, columns) float32 matrix over memory that lives elsewhere; plain data, so that worker threads need no autograd state.
Tensor matrix(const float* data, int64_t rows, int64_t columns, bool transposed = false) {
  using torch::headeronly::DeviceType;
  const torch::stable::Device cpu(DeviceType::CPU);
  float* memory = const_cast<float*>(data);
  return transposed ? torch::stable::from_blob(memory, {columns, rows}, {1, columns}, cpu, ScalarType::Float)
                    : torch::stable::from_blob(memory, {rows, columns}, {columns, 1}, cpu, ScalarType::Float);
}

// out (m, n) = a (m, k) · b (k, n), where a transposed operand lies in memory as (k, m) or (n, k).
void product(float* out, const float* a, const float* b, int64_t m, int64_t k, int64_t n, bool b_transposed,
             bool a_transposed = false) {
  if (m == 0 || n == 0) return;
  using torch::stable::detail::from;
  std::array<StableIValue, 3> stack{from(a_transposed ? matrix(a, k, m, true) : matrix(a, m, k)),
                                    from(b_transposed ? matrix(b, n, k, true) : matrix(b, k, n)),
                                    from(matrix(out, m, n))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // takes back the reference that the call returned
}

// Rows of a tile: its logits fit a core's L2 cache, and every thread has a tile.
int64_t tile_rows(int64_t total_rows, int64_t columns) {
  const int64_t threads = std::max<int64_t>(1, torch::stable::get_num_threads());
  const int64_t cached = (int64_t(1) << 18) / std::max<int64_t>(1, columns);
  const int64_t shared = (total_rows + threads - 1) / threads;
  return std::max<int64_t>(8, std::min<int64_t>({cached, shared, 128}));
}

// body(image, first row, rows, scratch) for every tile of at most `tile` rows in each of `images` images of `rows` rows.
template <class F>
void for_tiles(int64_t images, int64_t rows, int64_t tile, int64_t columns, int64_t work_per_row, const F& body) {
  if (images == 0 || rows == 0) return;
  const int64_t tiles = (rows + tile - 1) / tile;
  parallel(images * tiles, tile * work_per_row, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[tile * (columns + 2)]);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % tiles * tile;
      body(i / tiles, first, std::min(tile, rows - first), scratch.get());
    }
  });
}

// float32 rows, divided by their norms if asked: v/(‖v‖ + 1e-7).
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
    if (norm != nullptr)
      patch_nce_kernels().normalise_grad({rows, channels, data + first * channels, norm + first, grad});
  }
};

// out row = factor·row, or out row += factor·row.
void scale_rows(float* out, const float* rows, const float* factors, int64_t count, int64_t channels, bool add) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < channels; ++c) {
      const float value = factors[r] * rows[r * channels + c];
      out[r * channels + c] = add ? out[r * channels + c] + value : value;
    }
}

// What a call has for every layer.
struct Options {
  double temperature;
  std::string negatives;
  bool decoupled, normalize;
};

// A layer's results of the forward pass; grad and dkey are null if not asked for.
struct Forward {
  float *loss, *top, *inverse_sum, *grad, *dkey;
};

void forward_layer(const Tensor& query, const Tensor& key, const std::optional<Tensor>& extra,
                   const std::optional<Tensor>& offsets, const Options& options, const Forward& out) {
  const auto [B, P, C, M] = check(query, key, extra);
  const KeyNegatives kind = negatives_of(options.negatives, offsets);
  const bool decoupled = options.decoupled, query_grad = out.grad != nullptr, key_grad = out.dkey != nullptr;
  const std::vector<float> mask = offset_mask(offsets, P, decoupled, 1);
  const Rows q(query, options.normalize), k(key, options.normalize);
  std::optional<Rows> e;
  if (M > 0) e.emplace(*extra, options.normalize);

  STD_TORCH_CHECK(!key_grad || kind != KeyNegatives::none, "patch_nce: key_grad needs negatives among the keys");
  float *loss_data = out.loss, *top = out.top, *inverse_sum = out.inverse_sum, *grad_data = out.grad;
  const PatchNceKernels& kernels = patch_nce_kernels();
  const int64_t keys = kind == KeyNegatives::none ? 0 : P, channels = C, extras = M, count = P;
  const double inverse_temperature = 1.0 / options.temperature;

  // Tiles of one image each add to the gradient of its keys, into sums of their own; with images enough for all threads a
  // tile is an image.
  const bool whole_images = key_grad && B >= int64_t(torch::stable::get_num_threads());
  const int64_t tile = whole_images ? std::max<int64_t>(1, P) : tile_rows(B * P, keys + M);
  const int64_t tiles = (P + tile - 1) / tile;
  std::optional<Tensor> parts;
  if (key_grad && tiles > 1) parts = new_tensor(query, {B, tiles, P, C}, ScalarType::Float);
  float* parts_data = parts.has_value() ? floats(*parts) : out.dkey;
  const int64_t columns = keys + M + (key_grad || (query_grad && M > 0) ? C : 0);
  for_tiles(B, P, tile, columns, (keys + M) * C, [&](int64_t image, int64_t first, int64_t rows, float* scratch) {
    const int64_t start = image * count + first;
    const float *q_rows = q.data + start * channels, *k_rows = k.data + start * channels;
    const float* k_image = k.data + image * count * channels;
    float *products = scratch, *extra_products = products + rows * keys;
    float *weight_scale = extra_products + rows * extras, *positive_weight = weight_scale + rows;
    product(products, q_rows, k_image, rows, channels, keys, true);
    if (extras > 0) product(extra_products, q_rows, e->data, rows, channels, extras, true);
    kernels.rows({rows, first, count, extras, channels, kind, decoupled, inverse_temperature, mask.data(), products,
                  extra_products, q_rows, k_rows, loss_data + start, top + start, inverse_sum + start,
                  weight_scale, positive_weight});
    float* rows_scratch = positive_weight + rows;
    if (key_grad) {
      float* dk = parts_data + (image * tiles + first / tile) * count * channels;
      scale_rows(rows_scratch, q_rows, weight_scale, rows, channels, false);
      product(dk, products, rows_scratch, count, rows, channels, false, true);
      scale_rows(dk + first * channels, q_rows, positive_weight, rows, channels, true);
    }
    if (!query_grad) return;
    float* g = grad_data + start * channels;
    if (keys > 0) {
      product(g, products, k_image, rows, keys, channels, false);
    } else {
      std::fill(g, g + rows * channels, 0.0f);
    }
    float* extra_grad = nullptr;
    if (extras > 0) {
      extra_grad = rows_scratch;
      product(extra_grad, extra_products, e->data, rows, extras, channels, false);
    }
    kernels.query_grad({rows, channels, weight_scale, positive_weight, k_rows, extra_grad, g});
    q.undo(g, start, rows, channels);
  });
  if (key_grad) {
    float* target = out.dkey;
    parallel(B * P, (tiles + 1) * C, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; tiles > 1 && row < end; ++row)
        for (int64_t c = 0; c < channels; ++c) {
          const float* part = parts_data + (row / count * tiles * count + row % count) * channels + c;
          float sum = 0;
          for (int64_t t = 0; t < tiles; ++t) sum += part[t * count * channels];
          target[row * channels + c] = sum;
        }
      k.undo(target + begin * channels, begin, end - begin, channels);
    });
  }
}

// What the backward pass has of a layer; a result that is not needed is null.
struct Backward {
  const float *grad, *top, *inverse_sum, *unit_grad, *unit_key_grad;
  float *dquery, *dkey, *dextra;
};

void backward_layer(const Tensor& query, const Tensor& key, const std::optional<Tensor>& extra,
                    const std::optional<Tensor>& offsets, const Options& options, const Backward& io) {
  const auto [B, P, C, M] = check(query, key, extra);
  const KeyNegatives kind = negatives_of(options.negatives, offsets);
  const bool decoupled = options.decoupled, normalize = options.normalize;
  const float *g = io.grad, *top = io.top, *inverse_sum = io.inverse_sum;

  if (io.dquery != nullptr) {
    const float* source = io.unit_grad;
    float* target = io.dquery;
    const int64_t channels = C;
    parallel(B * P, C, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t c = 0; c < channels; ++c) target[r * channels + c] = source[r * channels + c] * g[r];
    });
  }
  // What the forward pass formed is the gradient of Σloss: it was asked for where every loss counts the same.
  if (io.dkey != nullptr && io.unit_key_grad != nullptr && B * P > 0) {
    const float *source = io.unit_key_grad, factor = g[0];
    float* target = io.dkey;
    parallel(B * P * C, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) target[i] = source[i] * factor;
    });
  }
  const bool need_key = io.dkey != nullptr && io.unit_key_grad == nullptr;
  const bool need_extra = io.dextra != nullptr && M > 0;
  if (!need_key && !need_extra) return;

  const std::vector<float> mask = offset_mask(offsets, P, decoupled, -1);
  const Rows q(query, normalize);
  const PatchNceKernels& kernels = patch_nce_kernels();
  const double inverse_temperature = 1.0 / options.temperature;
  const int64_t channels = C, count = P, images = B;
  if (need_key) {
    const Rows k(key, normalize);
    float* target = io.dkey;
    for_tiles(B, P, tile_rows(B * P, P), P, P * C, [&](int64_t image, int64_t first, int64_t rows, float* products) {
      const int64_t start = image * count + first;
      const float* q_image = q.data + image * count * channels;
      product(products, k.data + start * channels, q_image, rows, channels, count, true);
      kernels.columns({rows, first, count, false, kind, decoupled, inverse_temperature, mask.data(),
                       top + image * count, inverse_sum + image * count, g + image * count, products});
      product(target + start * channels, products, q_image, rows, count, channels, false);
      k.undo(target + start * channels, start, rows, channels);
    });
  }
  if (need_extra) {
    const Rows e(*extra, normalize);
    float* target = io.dextra;
    const int64_t all = images * count;
    for_tiles(1, M, tile_rows(M, all), all, all * C, [&](int64_t, int64_t first, int64_t rows, float* products) {
      product(products, e.data + first * channels, q.data, rows, channels, all, true);
      kernels.columns({rows, first, all, true, kind, decoupled, inverse_temperature, nullptr, top, inverse_sum,
                       g, products});
      if (all > 0) {
        product(target + first * channels, products, q.data, rows, all, channels, false);
      } else {
        std::fill(target + first * channels, target + (first + rows) * channels, 0.0f);
      }
      e.undo(target + first * channels, first, rows, channels);
    });
  }
}

// Layers whose results lie one behind the other in one tensor of each kind.
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

  std::optional<Tensor> extra(size_t i) const {
    return extras.empty() ? std::nullopt : std::optional<Tensor>(extras[i]);
  }
  std::optional<Tensor> offset(size_t i) const {
    return offsets.empty() ? std::nullopt : std::optional<Tensor>(offsets[i]);
  }

  // body(layer, its first row, its first element of query and key, that of extra)
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

// -> loss (R,) of all R rows, denominator (2, R) as top and 1/Σexp(logit - top), d loss_s / d query_s and d Σloss / d key
// of all layers, or empty tensors. All float32. With key_grad the gradient of the keys is that of the sum of their layer.
std::tuple<Tensor, Tensor, Tensor, Tensor> patch_nce_layers(std::vector<Tensor> queries, std::vector<Tensor> keys,
                                                            std::vector<Tensor> extras, std::vector<Tensor> offsets,
                                                            double temperature, std::string negatives, bool decoupled,
                                                            bool normalize, bool query_grad, bool key_grad) {
  const Layers layers(queries, keys, extras, offsets);
  const Options options{temperature, negatives, decoupled, normalize};
  const auto result = [&](auto... sizes) { return new_tensor(queries[0], {sizes...}, ScalarType::Float); };
  Tensor loss = result(layers.rows), denominator = result(int64_t(2), layers.rows);
  Tensor grad = result(query_grad ? layers.size : 0), dkey = result(key_grad ? layers.size : 0);
  float *losses = floats(loss), *top = floats(denominator), *grads = floats(grad), *dkeys = floats(dkey);
  layers.each([&](size_t i, int64_t row, int64_t element, int64_t) {
    const bool any = queries[i].numel() > 0;
    forward_layer(queries[i], keys[i], layers.extra(i), layers.offset(i), options,
                  {losses + row, top + row, top + layers.rows + row, at(grads, query_grad && any, element),
                   at(dkeys, key_grad && any, element)});
  });
  return {loss, denominator, grad, dkey};
}

// -> d query, d key, d extra of Σ grad·loss (float32), of all layers, each empty if not asked for.
std::tuple<Tensor, Tensor, Tensor> patch_nce_layers_backward(
    Tensor grad, std::vector<Tensor> queries, std::vector<Tensor> keys, std::vector<Tensor> extras,
    std::vector<Tensor> offsets, Tensor denominator, Tensor unit_grad, Tensor unit_key_grad, double temperature,
    std::string negatives, bool decoupled, bool normalize, bool need_query, bool need_key, bool need_extra) {
  const Layers layers(queries, keys, extras, offsets);
  const Options options{temperature, negatives, decoupled, normalize};
  STD_TORCH_CHECK(grad.numel() == layers.rows, "patch_nce: expected grad of shape (B, P)");
  STD_TORCH_CHECK(denominator.numel() == 2 * layers.rows, "patch_nce: expected denominator of shape (2, B, P)");
  STD_TORCH_CHECK(!need_query || unit_grad.numel() == layers.size,
                  "patch_nce: expected the query's gradient from the forward pass");
  const bool key_formed = need_key && unit_key_grad.numel() > 0;
  STD_TORCH_CHECK(!key_formed || unit_key_grad.numel() == layers.size,
                  "patch_nce: expected the keys' gradient from the forward pass");
  const Tensor upstream = as_float32(grad), saved = as_float32(denominator), unit = as_float32(unit_grad),
               key_unit = as_float32(unit_key_grad);
  const auto result = [&](int64_t size) { return new_tensor(queries[0], {size}, ScalarType::Float); };
  Tensor dquery = result(need_query ? layers.size : 0), dkey = result(need_key ? layers.size : 0);
  Tensor dextra = result(need_extra ? layers.extra_size : 0);
  float *g = floats(upstream), *top = floats(saved), *units = floats(unit), *key_units = floats(key_unit);
  float *dqueries = floats(dquery), *dkeys = floats(dkey), *dextras = floats(dextra);
  layers.each([&](size_t i, int64_t row, int64_t element, int64_t extra_element) {
    backward_layer(queries[i], keys[i], layers.extra(i), layers.offset(i), options,
                   {g + row, top + row, top + layers.rows + row, at(units, need_query, element),
                    at(key_units, key_formed, element), at(dqueries, need_query, element), at(dkeys, need_key, element),
                    at(dextras, need_extra, extra_element)});
  });
  return {dquery, dkey, dextra};
}

std::vector<Tensor> listed(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::vector<Tensor>{*tensor} : std::vector<Tensor>{};
}

Tensor shaped(const Tensor& flat, std::initializer_list<int64_t> shape) {
  return torch::stable::view(flat, torch::headeronly::IntHeaderOnlyArrayRef(shape.begin(), shape.size()));
}

// The same of one layer, with its shapes.
std::tuple<Tensor, Tensor, Tensor, Tensor> patch_nce(Tensor query, Tensor key, std::optional<Tensor> extra,
                                                     std::optional<Tensor> offsets, double temperature,
                                                     std::string negatives, bool decoupled, bool normalize,
                                                     bool query_grad, bool key_grad) {
  const auto [B, P, C, M] = check(query, key, extra);
  const auto [loss, denominator, grad, dkey] = patch_nce_layers(
      {query}, {key}, listed(extra), listed(offsets), temperature, negatives, decoupled, normalize, query_grad, key_grad);
  return {shaped(loss, {B, P}), shaped(denominator, {2, B, P}), shaped(grad, {query_grad ? B : 0, P, C}),
          shaped(dkey, {key_grad ? B : 0, P, C})};
}

std::tuple<Tensor, Tensor, Tensor> patch_nce_backward(Tensor grad, Tensor query, Tensor key, std::optional<Tensor> extra,
                                                      std::optional<Tensor> offsets, Tensor denominator,
                                                      Tensor unit_grad, Tensor unit_key_grad, double temperature,
                                                      std::string negatives, bool decoupled, bool normalize,
                                                      bool need_query, bool need_key, bool need_extra) {
  const auto [B, P, C, M] = check(query, key, extra);
  const auto [dquery, dkey, dextra] = patch_nce_layers_backward(
      grad, {query}, {key}, listed(extra), listed(offsets), denominator, unit_grad, unit_key_grad, temperature,
      negatives, decoupled, normalize, need_query, need_key, need_extra);
  return {shaped(dquery, {need_query ? B : 0, P, C}), shaped(dkey, {need_key ? B : 0, P, C}),
          shaped(dextra, {need_extra ? M : 0, C})};
}

}  // namespace
}  // namespace cgcl

STABLE_TORCH_LIBRARY_IMPL(cgcl_fast, CPU, m) {
  m.impl("_patch_nce", TORCH_BOX(&cgcl::patch_nce));
  m.impl("_patch_nce_backward", TORCH_BOX(&cgcl::patch_nce_backward));
  m.impl("_patch_nce_layers", TORCH_BOX(&cgcl::patch_nce_layers));
  m.impl("_patch_nce_layers_backward", TORCH_BOX(&cgcl::patch_nce_layers_backward));
}
