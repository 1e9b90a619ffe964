// Points as rows: tensors (..., D) whose channels lie one after the other, as between linear layers
// and in the heads of attention. The channels are vector lanes, where `points.h` has pixels.

#pragma once

#include "points.h"

namespace points {

// Rows of a tensor of two to four axes; those before the last may have any strides.
template <typename T>
struct Rows {
  T* at;
  int64_t width, count, sizes[2], strides[3];

  explicit Rows(const Tensor& x) : at(data<T>(x)), width(x.size(-1)), count(1) {
    const int64_t axes = x.dim() - 1;
    for (int64_t k = 0; k < 3; ++k) {
      const int64_t axis = axes - 1 - k;
      strides[k] = axis < 0 ? 0 : x.stride(axis);
      if (k < 2) sizes[k] = axis < 0 ? 1 : x.size(axis);
      count *= axis < 0 ? 1 : x.size(axis);
    }
  }

  T* row(int64_t i) const {
    const int64_t outer = i / sizes[0];
    return at + i % sizes[0] * strides[0] + outer % sizes[1] * strides[1] +
           outer / sizes[1] * strides[2];
  }
};

// What Rows assumes, of a tensor that has the first axes of another and `width` channels.
inline void check_rows(const char* name, const Tensor& x, const Tensor& like, int64_t width) {
  checks::matches(name, x, like);
  bool same = x.dim() == like.dim() && x.size(-1) == width;
  for (int64_t axis = 0; same && axis + 1 < x.dim(); ++axis) same = x.size(axis) == like.size(axis);
  if (!same)
    checks::refuse(name, " has shape ", checks::shape(x), ", expected ", width,
                   " channels for each point of shape ", checks::shape(like));
  if (width > 1 && x.stride(-1) != 1) checks::refuse(name, " must have its channels side by side");
}

// The first tensor of an operator on rows.
inline void lead_rows(const char* name, const Tensor& x) {
  checks::leads(name, x);
  if (x.dim() < 2 || x.dim() > 4)
    checks::refuse(name, " has shape ", checks::shape(x), ", expected two to four axes");
  check_rows(name, x, x, x.size(-1));
}

// body(i) for all rows, in parallel where there is work for it.
template <typename Body>
void for_rows(int64_t count, int64_t width, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, width));
  torch::stable::parallel_for(0, count, grain, [&](int64_t i, int64_t last) {
    for (; i < last; ++i) body(i);
  });
}

// Spans of rows: what is summed in float over one is short enough to keep its digits. Few rows make
// few chunks, since clearing and adding up sums of all channels costs as much as some rows do.
constexpr int64_t SPAN = 64;

inline int64_t spans_of(int64_t count) { return (count + SPAN - 1) / SPAN; }
inline int64_t chunks_of(int64_t count) { return std::min(CHUNKS, spans_of(count)); }

// body(chunk, first, last) for all spans.
template <typename Body>
void for_spans(int64_t count, const Body& body) {
  const int64_t spans = spans_of(count), chunks = chunks_of(count);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      for (int64_t t = chunk * spans / chunks; t < (chunk + 1) * spans / chunks; ++t)
        body(chunk, t * SPAN, std::min(count, (t + 1) * SPAN));
  });
}

template <typename T>
IN_LOOP T dot(const T* x, const T* y, int64_t width) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < width; ++j) sum += x[j] * y[j];
  return sum;
}

// sum += factor x
template <typename T>
IN_LOOP void add(T* sum, T factor, const T* x, int64_t width) {
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) sum[j] += factor * x[j];
}

template <typename T>
IN_LOOP void collect(double* total, const T* part, int64_t width) {
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) total[j] += part[j];
}

}  // namespace points
