// The depth mix of Attention Residuals in one pass over the sources, and its gradient in another.
//
//     r_i = (mean(v_i^2) + eps)^(-1/2)     s_i = r_i <u, v_i> + bias_i
//     a   = softmax(s)                     h   = sum_i a_i v_i
//
//     d_i     = a_i (<g, v_i> - <g, h>)
//     dL/dv_i = a_i g + d_i (r_i u - (r_i^2 <u, v_i> r_i / D) v_i)
//     dL/du   = sum d_i r_i v_i
//
// A row of every source is in the nearest cache when it is mixed, so each source is read from
// memory once. Statistics are accumulated in the sources' own type (float or double).

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../checks.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

using torch::stable::Tensor;

namespace {

constexpr int64_t CHUNKS = 16;

template <typename T>
std::vector<T*> pointers(const std::vector<Tensor>& tensors) {
  std::vector<T*> result;
  for (const Tensor& tensor : tensors)
    result.push_back(tensor.numel() ? static_cast<T*>(tensor.data_ptr()) : nullptr);
  return result;
}

// Ask for a row before it is needed: the hardware's own streams stop at every page, which is a few
// rows, and there is one stream for each source.
template <typename T>
void prefetch(const T* row, int64_t width) {
  for (int64_t k = 0; k < width; k += 64 / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(row + k);
}

// Two inner products with one row, over lanes that a compiler keeps in vector registers.
template <typename T>
void inner(const T* row, const T* p, const T* q, int64_t width, T& with_p, T& with_q) {
  constexpr int64_t LANES = 128 / sizeof(T);
  T to_p[LANES] = {}, to_q[LANES] = {};
  int64_t k = 0;
  for (; k + LANES <= width; k += LANES) {
#pragma omp simd
    for (int64_t j = 0; j < LANES; ++j) {
      to_p[j] += row[k + j] * p[k + j];
      to_q[j] += row[k + j] * q[k + j];
    }
  }
  for (int64_t j = 0; k < width; ++k, ++j) {
    to_p[j] += row[k] * p[k];
    to_q[j] += row[k] * q[k];
  }
  with_p = with_q = 0;
  for (int64_t j = 0; j < LANES; ++j) {
    with_p += to_p[j];
    with_q += to_q[j];
  }
}

template <typename T>
void forward(const std::vector<Tensor>& sources, const Tensor& query, const Tensor& bias,
             double eps, const Tensor& mixed, const Tensor& weights, const Tensor& statistics) {
  const int64_t n = sources.size(), width = query.size(0), rows = mixed.numel() / width;
  const auto v = pointers<T>(sources);
  const T* u = static_cast<T*>(query.data_ptr());
  const T* offset = bias.numel() ? static_cast<T*>(bias.data_ptr()) : nullptr;
  T* h = static_cast<T*>(mixed.data_ptr());
  T* a = static_cast<T*>(weights.data_ptr());
  T* r = static_cast<T*>(statistics.data_ptr());
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      T top = -INFINITY;
      for (int64_t i = 0; i < n; ++i) {
        const T* row = v[i] + t * width;
        T square, dot;
        prefetch(row + width, width);
        inner(row, row, u, width, square, dot);
        const T scale = T(1) / std::sqrt(square / T(width) + T(eps));
        r[t * n + i] = scale;
        a[t * n + i] = scale * dot + (offset ? offset[t * n + i] : T(0));
        top = a[t * n + i] > top ? a[t * n + i] : top;
      }
      T sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += a[t * n + i] = std::exp(a[t * n + i] - top);
      T* out = h + t * width;
      for (int64_t i = 0; i < n; ++i) {
        const T weight = a[t * n + i] /= sum;
        const T* row = v[i] + t * width;
        if (i == 0) {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) out[k] = weight * row[k];
        } else {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) out[k] += weight * row[k];
        }
      }
    }
  });
}

template <typename T>
void backward(const std::vector<Tensor>& sources, const Tensor& query, const Tensor& weights,
              const Tensor& statistics, const Tensor& gradient,
              const std::vector<Tensor>& before, const std::vector<Tensor>& after,
              const Tensor& query_gradient) {
  const int64_t n = sources.size(), width = query.size(0), rows = gradient.numel() / width;
  const auto v = pointers<T>(sources), base = pointers<T>(before), dv = pointers<T>(after);
  const T* u = static_cast<T*>(query.data_ptr());
  const T* a = static_cast<T*>(weights.data_ptr());
  const T* r = static_cast<T*>(statistics.data_ptr());
  const T* g = static_cast<T*>(gradient.data_ptr());
  T* du = static_cast<T*>(query_gradient.data_ptr());
  // Fixed chunks, summed in order: du has the same bits for any number of threads.
  const int64_t chunks = rows < CHUNKS ? rows : CHUNKS;
  std::vector<T> partial(chunks * width, T(0));
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    std::vector<T> along(n), dots(n);
    for (int64_t c = first; c < last; ++c) for (int64_t t = c * rows / chunks; t < (c + 1) * rows / chunks; ++t) {
      T* sum = partial.data() + c * width;
      const T* grad = g + t * width;
      T mean = 0;
      for (int64_t i = 0; i < n; ++i) {
        prefetch(v[i] + (t + 1) * width, width);
        if (base[i]) prefetch(base[i] + (t + 1) * width, width);
        inner(v[i] + t * width, grad, u, width, along[i], dots[i]);
        mean += a[t * n + i] * along[i];
      }
      for (int64_t i = 0; i < n; ++i) {
        const T weight = a[t * n + i], scale = r[t * n + i];
        const T to_logit = weight * (along[i] - mean), to_key = to_logit * scale;
        const T to_norm = to_key * scale * scale * dots[i] / T(width);
        const T* row = v[i] + t * width;
        const T* old = base[i] ? base[i] + t * width : nullptr;
        T* out = dv[i] + t * width;
        if (old) {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) {
            out[k] = old[k] + weight * grad[k] + to_key * u[k] - to_norm * row[k];
            sum[k] += to_key * row[k];
          }
        } else {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) {
            out[k] = weight * grad[k] + to_key * u[k] - to_norm * row[k];
            sum[k] += to_key * row[k];
          }
        }
      }
    }
  });
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t k = 0; k < width; ++k) du[k] += partial[c * width + k];
}

// Phase one: n finished sources under S queries. Phase two: one more source for one of them,
// h = (1 - sigma) o + sigma p with sigma = sigmoid(s_p - level).
template <typename T>
void phase_one(const std::vector<Tensor>& sources, const Tensor& queries, double eps,
               const std::vector<Tensor>& mixed, const Tensor& levels) {
  const int64_t n = sources.size(), count = queries.size(0), width = queries.size(1);
  const int64_t rows = sources[0].numel() / width;
  const auto v = pointers<T>(sources), o = pointers<T>(mixed);
  const T* u = static_cast<T*>(queries.data_ptr());
  T* level = static_cast<T*>(levels.data_ptr());
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<T> a(n * count);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < n; ++i) {
        const T* row = v[i] + t * width;
        prefetch(row + width, width);
        for (int64_t j = 0; j < count; ++j) {
          T square, dot;
          inner(row, row, u + j * width, width, square, dot);
          a[j * n + i] = dot / std::sqrt(square / T(width) + T(eps));
        }
      }
      for (int64_t j = 0; j < count; ++j) {
        T* weight = a.data() + j * n;
        T top = weight[0], sum = 0;
        for (int64_t i = 1; i < n; ++i) top = weight[i] > top ? weight[i] : top;
        for (int64_t i = 0; i < n; ++i) sum += weight[i] = std::exp(weight[i] - top);
        level[j * rows + t] = top + std::log(sum);
        T* out = o[j] + t * width;
        for (int64_t i = 0; i < n; ++i) {
          const T* row = v[i] + t * width;
          const T scaled = weight[i] / sum;
          if (i == 0) {
#pragma omp simd
            for (int64_t k = 0; k < width; ++k) out[k] = scaled * row[k];
          } else {
#pragma omp simd
            for (int64_t k = 0; k < width; ++k) out[k] += scaled * row[k];
          }
        }
      }
    }
  });
}

template <typename T>
void phase_two(const Tensor& mixed, const Tensor& levels, const Tensor& later, const Tensor& query,
               double eps, const Tensor& merged) {
  const int64_t width = query.size(0), rows = later.numel() / width;
  const T *o = static_cast<T*>(mixed.data_ptr()), *level = static_cast<T*>(levels.data_ptr());
  const T *p = static_cast<T*>(later.data_ptr()), *u = static_cast<T*>(query.data_ptr());
  T* h = static_cast<T*>(merged.data_ptr());
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T *row = p + t * width, *old = o + t * width;
      T square, dot, *out = h + t * width;
      prefetch(row + width, width);
      prefetch(old + width, width);
      inner(row, row, u, width, square, dot);
      const T logit = dot / std::sqrt(square / T(width) + T(eps)) - level[t];
      const T sigma = T(1) / (T(1) + std::exp(-logit));
#pragma omp simd
      for (int64_t k = 0; k < width; ++k) out[k] = old[k] + sigma * (row[k] - old[k]);
    }
  });
}

using checks::is_double;

// Laid out like a contiguous tensor; where `absent` is set, an empty tensor stands for none.
void check_rows(const char* name, const std::vector<Tensor>& tensors, const Tensor& like,
                bool absent = false) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string one = std::string(name) + "[" + std::to_string(i) + "]";
    if (absent && !tensors[i].numel())
      checks::matches(one.c_str(), tensors[i], like);
    else
      checks::laid_out_like(one.c_str(), tensors[i], like);
  }
}

// Sources and one query, or several; returns the number of rows.
int64_t check_sources(const std::vector<Tensor>& sources, const Tensor& query) {
  if (sources.empty()) checks::refuse("sources is empty");
  const Tensor& first = sources[0];
  checks::leads("sources[0]", first);
  if (first.dim() < 1) checks::refuse("sources[0] needs an axis of channels");
  const int64_t width = first.size(first.dim() - 1);
  if (width < 1) checks::refuse("sources[0] has no channels");
  checks::holds("sources[0]", first, first, first.numel());
  check_rows("sources", sources, first);
  checks::matches("query", query, first);
  if (query.dim() == 1) checks::dense("query", query, first, {width});
  else checks::dense("queries", query, first, {query.dim() ? query.size(0) : 0, width});
  return first.numel() / width;
}

void check_count(const char* name, const std::vector<Tensor>& tensors, size_t count) {
  if (tensors.size() != count)
    checks::refuse(name, " holds ", tensors.size(), " tensors, expected ", count);
}

void depth_mix(std::vector<Tensor> sources, Tensor query, Tensor bias, double eps, Tensor mixed,
               Tensor weights, Tensor statistics) {
  const int64_t rows = check_sources(sources, query), count = rows * sources.size();
  checks::dense("query", query, query, {query.size(query.dim() - 1)});
  checks::holds("bias", bias, query, bias.numel() ? count : 0);
  check_rows("mixed", {mixed}, sources[0]);
  checks::holds("weights", weights, query, count);
  checks::holds("statistics", statistics, query, count);
  (is_double(query) ? forward<double> : forward<float>)(sources, query, bias, eps, mixed, weights,
                                                        statistics);
}

void depth_mix_backward(std::vector<Tensor> sources, Tensor query, Tensor weights,
                        Tensor statistics, Tensor gradient, std::vector<Tensor> before,
                        std::vector<Tensor> after, Tensor query_gradient) {
  const int64_t rows = check_sources(sources, query), count = rows * sources.size();
  const int64_t width = query.size(query.dim() - 1);
  checks::dense("query", query, query, {width});
  checks::holds("weights", weights, query, count);
  checks::holds("statistics", statistics, query, count);
  check_rows("gradient", {gradient}, sources[0]);
  check_count("before", before, sources.size());
  check_count("after", after, sources.size());
  check_rows("before", before, sources[0], true);
  check_rows("after", after, sources[0]);
  checks::dense("query_gradient", query_gradient, query, {width});
  (is_double(query) ? backward<double> : backward<float>)(sources, query, weights, statistics,
                                                          gradient, before, after, query_gradient);
}

void depth_phase_one(std::vector<Tensor> sources, Tensor queries, double eps,
                     std::vector<Tensor> mixed, Tensor levels) {
  const int64_t rows = check_sources(sources, queries);
  if (queries.dim() != 2) checks::refuse("queries must have two axes");
  check_count("mixed", mixed, queries.size(0));
  check_rows("mixed", mixed, sources[0]);
  checks::holds("levels", levels, queries, queries.size(0) * rows);
  (is_double(queries) ? phase_one<double> : phase_one<float>)(sources, queries, eps, mixed, levels);
}

void depth_phase_two(Tensor mixed, Tensor levels, Tensor later, Tensor query, double eps,
                     Tensor merged) {
  const int64_t rows = check_sources({later}, query);
  checks::dense("query", query, query, {query.size(query.dim() - 1)});
  check_rows("mixed", {mixed}, later);
  check_rows("merged", {merged}, later);
  checks::holds("levels", levels, query, rows);
  (is_double(query) ? phase_two<double> : phase_two<float>)(mixed, levels, later, query, eps,
                                                            merged);
}

}  // namespace

STABLE_TORCH_LIBRARY(archzoo_attnres, m) {
  m.def(
      "depth_mix(Tensor[] sources, Tensor query, Tensor bias, float eps, Tensor(a!) mixed, "
      "Tensor(b!) weights, Tensor(c!) statistics) -> ()");
  m.def(
      "depth_mix_backward(Tensor[] sources, Tensor query, Tensor weights, "
      "Tensor statistics, Tensor gradient, Tensor[] before, Tensor(a!)[] after, "
      "Tensor(b!) query_gradient) -> ()");
  m.def(
      "phase_one(Tensor[] sources, Tensor queries, float eps, Tensor(a!)[] mixed, "
      "Tensor(b!) levels) -> ()");
  m.def(
      "phase_two(Tensor mixed, Tensor levels, Tensor later, Tensor query, float eps, "
      "Tensor(a!) merged) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(archzoo_attnres, CPU, m) {
  m.impl("depth_mix", TORCH_BOX(&depth_mix));
  m.impl("depth_mix_backward", TORCH_BOX(&depth_mix_backward));
  m.impl("phase_one", TORCH_BOX(&depth_phase_one));
  m.impl("phase_two", TORCH_BOX(&depth_phase_two));
}
