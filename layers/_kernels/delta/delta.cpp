// The delta write and the channel compression of Deep Delta Learning, each one pass over the rows.
//
// A state row holds m columns of width D. With k = rho h, rho = (|h|^2 + eps^2)^(-1/2):
//
//     r_j = <k, X_j>     delta_j = beta (v_j - erase r_j)     X'_j = X_j + delta_j k
//
// and for G = dL/dX', with e_j = <G_j, k> and f_j = -erase beta e_j:
//
//     dX_j = G_j + f_j k     dbeta = sum_j e_j (v_j - erase r_j)     dv_j = beta e_j
//     dk = sum_j (delta_j G_j + f_j X_j)     dh = rho (dk - k <k, dk>)
//
// Compression: c = sum_j W_j X_j, elementwise over D.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../checks.h"

#include <cmath>
#include <cstdint>
#include <vector>

using torch::stable::Tensor;

namespace {

constexpr int64_t CHUNKS = 16;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// <x, y> over lanes that a compiler keeps in vector registers.
template <typename T>
T inner(const T* x, const T* y, int64_t width) {
  constexpr int64_t LANES = 256 / sizeof(T);
  T lane[LANES] = {};
  int64_t k = 0;
  for (; k + LANES <= width; k += LANES) {
#pragma omp simd
    for (int64_t j = 0; j < LANES; ++j) lane[j] += x[k + j] * y[k + j];
  }
  for (int64_t j = 0; k < width; ++k, ++j) lane[j] += x[k] * y[k];
  T sum = 0;
  for (int64_t j = 0; j < LANES; ++j) sum += lane[j];
  return sum;
}

template <typename T>
void write(const Tensor& state, const Tensor& branch, const Tensor& beta, const Tensor& value,
           bool erase, double eps, const Tensor& next, const Tensor& readout) {
  const int64_t m = state.size(state.dim() - 2), width = state.size(state.dim() - 1);
  const int64_t rows = branch.numel() / width;
  const T *X = data<T>(state), *H = data<T>(branch), *b = data<T>(beta), *v = data<T>(value);
  T *Y = data<T>(next), *saved = data<T>(readout);
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* h = H + t * width;
      const T rho = T(1) / std::sqrt(inner(h, h, width) + T(eps) * T(eps));
      saved[t * (m + 1) + m] = rho;
      for (int64_t j = 0; j < m; ++j) {
        const T* x = X + (t * m + j) * width;
        T* y = Y + (t * m + j) * width;
        const T r = erase ? rho * inner(x, h, width) : T(0);
        saved[t * (m + 1) + j] = r;
        const T along = b[t] * (v[t * m + j] - r) * rho;
#pragma omp simd
        for (int64_t k = 0; k < width; ++k) y[k] = x[k] + along * h[k];
      }
    }
  });
}

template <typename T>
void write_backward(const Tensor& state, const Tensor& branch, const Tensor& beta,
                    const Tensor& value, bool erase, const Tensor& readout, const Tensor& gradient,
                    const Tensor& to_state, const Tensor& to_branch, const Tensor& to_beta,
                    const Tensor& to_value) {
  const int64_t m = state.size(state.dim() - 2), width = state.size(state.dim() - 1);
  const int64_t rows = branch.numel() / width;
  const T *X = data<T>(state), *H = data<T>(branch), *b = data<T>(beta), *v = data<T>(value);
  const T *G = data<T>(gradient), *saved = data<T>(readout);
  T *dX = data<T>(to_state), *dH = data<T>(to_branch), *db = data<T>(to_beta);
  T* dv = data<T>(to_value);
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<T> along(m), back(m);
    for (int64_t t = begin; t < end; ++t) {
      const T *h = H + t * width, rho = saved[t * (m + 1) + m];
      T gate = 0, radial = 0;
      for (int64_t j = 0; j < m; ++j) {
        const T r = saved[t * (m + 1) + j], gap = v[t * m + j] - r;
        const T e = rho * inner(G + (t * m + j) * width, h, width);
        gate += e * gap;
        dv[t * m + j] = b[t] * e;
        along[j] = b[t] * gap;
        back[j] = erase ? -b[t] * e : T(0);
        radial += along[j] * e + back[j] * r;
      }
      db[t] = gate;
      T* dh = dH + t * width;
      const T inward = rho * rho * radial;
      for (int64_t j = 0; j < m; ++j) {
        const T *x = X + (t * m + j) * width, *g = G + (t * m + j) * width;
        T* dx = dX + (t * m + j) * width;
        const T to_x = back[j] * rho, from_g = along[j] * rho, from_x = back[j] * rho;
        if (j == 0) {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) {
            dx[k] = g[k] + to_x * h[k];
            dh[k] = from_g * g[k] + from_x * x[k] - inward * h[k];
          }
        } else {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) {
            dx[k] = g[k] + to_x * h[k];
            dh[k] += from_g * g[k] + from_x * x[k];
          }
        }
      }
    }
  });
}

template <typename T>
void compress(const Tensor& state, const Tensor& weight, const Tensor& compressed) {
  const int64_t m = weight.size(0), width = weight.size(1), rows = compressed.numel() / width;
  const T *X = data<T>(state), *W = data<T>(weight);
  T* C = data<T>(compressed);
  torch::stable::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      T* c = C + t * width;
      for (int64_t j = 0; j < m; ++j) {
        const T *x = X + (t * m + j) * width, *w = W + j * width;
        if (j == 0) {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) c[k] = w[k] * x[k];
        } else {
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) c[k] += w[k] * x[k];
        }
      }
    }
  });
}

template <typename T>
void compress_backward(const Tensor& state, const Tensor& weight, const Tensor& gradient,
                       const Tensor& to_state, const Tensor& to_weight) {
  const int64_t m = weight.size(0), width = weight.size(1), rows = gradient.numel() / width;
  const T *X = data<T>(state), *W = data<T>(weight), *G = data<T>(gradient);
  T *dX = data<T>(to_state), *dW = data<T>(to_weight);
  // Fixed chunks, summed in order: dW has the same bits for any number of threads.
  const int64_t chunks = rows < CHUNKS ? rows : CHUNKS, size = m * width;
  std::vector<T> partial(chunks * size, T(0));
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      for (int64_t t = c * rows / chunks; t < (c + 1) * rows / chunks; ++t) {
        const T* g = G + t * width;
        for (int64_t j = 0; j < m; ++j) {
          const T *x = X + (t * m + j) * width, *w = W + j * width;
          T *dx = dX + (t * m + j) * width, *sum = partial.data() + c * size + j * width;
#pragma omp simd
          for (int64_t k = 0; k < width; ++k) {
            dx[k] = w[k] * g[k];
            sum[k] += x[k] * g[k];
          }
        }
      }
    }
  });
  for (int64_t c = 0; c < chunks; ++c)
    for (int64_t k = 0; k < size; ++k) dW[k] += partial[c * size + k];
}

using checks::is_double;

// A state (..., m, D) of rows, contiguous; returns the number of rows.
int64_t check_state(const Tensor& state) {
  checks::leads("state", state);
  if (state.dim() < 2) checks::refuse("state needs the axes of columns and channels");
  const int64_t m = state.size(-2), width = state.size(-1);
  if (m < 1 || width < 1) checks::refuse("state has no columns or no channels");
  checks::holds("state", state, state, state.numel());
  return state.numel() / (m * width);
}

// One vector (..., D) for every row of the state.
void check_branch(const char* name, const Tensor& branch, const Tensor& state) {
  bool same = branch.dim() + 1 == state.dim() && branch.size(-1) == state.size(-1);
  for (int64_t axis = 0; same && axis + 1 < branch.dim(); ++axis)
    same = branch.size(axis) == state.size(axis);
  if (!same)
    checks::refuse(name, " has shape ", checks::shape(branch), ", not that of a column of the state, ",
                   checks::shape(state));
  checks::holds(name, branch, state, branch.numel());
}

void check_write(const Tensor& state, const Tensor& branch, const Tensor& beta, const Tensor& value,
                 const Tensor& readout) {
  const int64_t rows = check_state(state), m = state.size(-2);
  check_branch("branch", branch, state);
  checks::holds("beta", beta, state, rows);
  checks::holds("value", value, state, rows * m);
  checks::holds("readout", readout, state, rows * (m + 1));
}

void delta_write(Tensor state, Tensor branch, Tensor beta, Tensor value, bool erase, double eps,
                 Tensor next, Tensor readout) {
  check_write(state, branch, beta, value, readout);
  checks::laid_out_like("next", next, state);
  (is_double(state) ? write<double> : write<float>)(state, branch, beta, value, erase, eps, next,
                                                    readout);
}

void delta_write_backward(Tensor state, Tensor branch, Tensor beta, Tensor value, bool erase,
                          Tensor readout, Tensor gradient, Tensor to_state, Tensor to_branch,
                          Tensor to_beta, Tensor to_value) {
  check_write(state, branch, beta, value, readout);
  checks::laid_out_like("gradient", gradient, state);
  checks::laid_out_like("to_state", to_state, state);
  checks::laid_out_like("to_branch", to_branch, branch);
  checks::holds("to_beta", to_beta, state, beta.numel());
  checks::holds("to_value", to_value, state, value.numel());
  (is_double(state) ? write_backward<double> : write_backward<float>)(
      state, branch, beta, value, erase, readout, gradient, to_state, to_branch, to_beta, to_value);
}

void compress_channels(Tensor state, Tensor weight, Tensor compressed) {
  check_state(state);
  checks::dense("weight", weight, state, {state.size(-2), state.size(-1)});
  check_branch("compressed", compressed, state);
  (is_double(state) ? compress<double> : compress<float>)(state, weight, compressed);
}

void compress_channels_backward(Tensor state, Tensor weight, Tensor gradient, Tensor to_state,
                                Tensor to_weight) {
  check_state(state);
  checks::dense("weight", weight, state, {state.size(-2), state.size(-1)});
  check_branch("gradient", gradient, state);
  checks::laid_out_like("to_state", to_state, state);
  checks::laid_out_like("to_weight", to_weight, weight);
  (is_double(state) ? compress_backward<double> : compress_backward<float>)(
      state, weight, gradient, to_state, to_weight);
}

}  // namespace

STABLE_TORCH_LIBRARY(archzoo_delta, m) {
  m.def(
      "delta_write(Tensor state, Tensor branch, Tensor beta, Tensor value, bool erase, float eps, "
      "Tensor(a!) next, Tensor(b!) readout) -> ()");
  m.def(
      "delta_write_backward(Tensor state, Tensor branch, Tensor beta, Tensor value, bool erase, "
      "Tensor readout, Tensor gradient, Tensor(a!) to_state, Tensor(b!) to_branch, "
      "Tensor(c!) to_beta, Tensor(d!) to_value) -> ()");
  m.def("compress(Tensor state, Tensor weight, Tensor(a!) compressed) -> ()");
  m.def(
      "compress_backward(Tensor state, Tensor weight, Tensor gradient, Tensor(a!) to_state, "
      "Tensor(b!) to_weight) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(archzoo_delta, CPU, m) {
  m.impl("delta_write", TORCH_BOX(&delta_write));
  m.impl("delta_write_backward", TORCH_BOX(&delta_write_backward));
  m.impl("compress", TORCH_BOX(&compress_channels));
  m.impl("compress_backward", TORCH_BOX(&compress_channels_backward));
}
