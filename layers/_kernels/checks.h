// What a kernel asks of its tensors before it touches memory: one dtype, float or double, on the
// CPU, and the sizes and strides that its loops assume. Callers lay tensors out; a kernel that is
// given anything else throws, naming the operator's argument, and has written nothing.

#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>

namespace checks {

using torch::stable::Tensor;
using Sizes = std::initializer_list<int64_t>;

template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

template <typename Size>
std::string shape(int64_t axes, const Size& size) {
  std::ostringstream out;
  out << '(';
  for (int64_t axis = 0; axis < axes; ++axis) out << (axis ? ", " : "") << size(axis);
  out << ')';
  return out.str();
}

inline std::string shape(const Tensor& x) {
  return shape(x.dim(), [&](int64_t axis) { return x.size(axis); });
}

inline bool is_double(const Tensor& x) {
  return x.scalar_type() == torch::headeronly::ScalarType::Double;
}

// The first tensor of an operator decides the dtype of all others.
inline void leads(const char* name, const Tensor& x) {
  if (!is_double(x) && x.scalar_type() != torch::headeronly::ScalarType::Float)
    refuse(name, " must be float32 or float64");
  if (!x.is_cpu()) refuse(name, " must be on the CPU");
}

inline void matches(const char* name, const Tensor& x, const Tensor& first) {
  if (x.scalar_type() != first.scalar_type()) refuse(name, " has another dtype than the first");
  if (!x.is_cpu()) refuse(name, " must be on the CPU");
}

// Contiguous, of the given sizes.
inline void dense(const char* name, const Tensor& x, const Tensor& first, Sizes expected) {
  matches(name, x, first);
  bool same = x.dim() == static_cast<int64_t>(expected.size());
  for (int64_t axis = 0; same && axis < x.dim(); ++axis)
    same = x.size(axis) == expected.begin()[axis];
  if (!same)
    refuse(name, " has shape ", shape(x), ", expected ",
           shape(expected.size(), [&](int64_t axis) { return expected.begin()[axis]; }));
  if (!x.is_contiguous()) refuse(name, " must be contiguous");
}

// Contiguous, of a number of elements, whatever its shape.
inline void holds(const char* name, const Tensor& x, const Tensor& first, int64_t count) {
  matches(name, x, first);
  if (x.numel() != count) refuse(name, " holds ", x.numel(), " numbers, expected ", count);
  if (!x.is_contiguous()) refuse(name, " must be contiguous");
}

// Sizes and strides of another tensor; strides of axes of size 1 say nothing.
inline void laid_out_like(const char* name, const Tensor& x, const Tensor& like) {
  matches(name, x, like);
  bool same = x.dim() == like.dim();
  for (int64_t axis = 0; same && axis < x.dim(); ++axis) same = x.size(axis) == like.size(axis);
  if (!same) refuse(name, " has shape ", shape(x), ", expected ", shape(like));
  for (int64_t axis = 0; axis < x.dim(); ++axis)
    if (x.size(axis) > 1 && x.numel() && x.stride(axis) != like.stride(axis))
      refuse(name, " is laid out in another order than its twin");
}

}  // namespace checks
