// Points as rows around the product of a linear layer of the ball, and around it norms and maps;
// equations in layers/hyperbolic/_fast/fused_linear.py and fused_rows.py. All keep what they return.

#pragma once

#include "planes.h"
#include "rows.h"

namespace points {

// F = s cosh(s r)/|z|, a = 2|z|, h = sinh(s r) of each hyperplane, s = 2 sqrt c.
template <typename T>
void plane_numbers(const Tensor& weight, const Tensor& offset, double curvature,
                   const Tensor& factor, const Tensor& stretch, const Tensor& shift) {
  lead_rows("weight", weight);
  if (weight.dim() != 2) checks::refuse("weight has shape ", checks::shape(weight), ", expected (M, N)");
  const int64_t count = weight.size(0);
  checks::holds("offset", offset, weight, offset.numel() ? count : 0);
  checks::dense("factor", factor, weight, {count});
  checks::dense("stretch", stretch, weight, {count});
  checks::dense("shift", shift, weight, {count});
  const Rows<T> z(weight);
  const double s = 2 * std::sqrt(curvature);
  const double least = SINGLE<T> ? 1.17549435e-38 : 2.2250738585072014e-308;
  for_rows(count, z.width, [&](int64_t k) {
    const double r = offset.numel() ? double(data<T>(offset)[k]) : 0;
    const T* row = z.row(k);
    double square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < z.width; ++j) square += double(row[j]) * double(row[j]);
    const double length = std::sqrt(std::max(square, least));
    data<T>(factor)[k] = T(s * std::cosh(s * r) / length);
    data<T>(stretch)[k] = T(2 * length);
    data<T>(shift)[k] = T(std::sinh(s * r));
  });
}

// squares = coefficient |t|^2.
template <typename T>
void row_squares(const Tensor& t, double coefficient, const Tensor& squares) {
  lead_rows("t", t);
  const Rows<T> in(t);
  checks::holds("squares", squares, t, in.count);
  for_rows(in.count, in.width, [&](int64_t i) {
    const T* x = in.row(i);
    data<T>(squares)[i] = T(coefficient) * dot(x, x, in.width);
  });
}

// What a layer knows of its hyperplanes: F, a, 1/a where it is asked for, and h.
template <typename T>
struct Planes {
  const T *factor, *stretch, *inverse, *shift;
};

// The velocities of a point by its products, in place of them or elsewhere; returns |velocity|^2.
// Loops stand in functions of their own, where the compiler sees that nothing overlaps.
template <typename T>
__attribute__((noinline)) T velocities(const T* product, const Planes<T> planes, T along, T cosh,
                                       int64_t width, T* out) {
  T norm = 0;
#pragma omp simd reduction(+ : norm)
  for (int64_t j = 0; j < width; ++j) {
    const T u = along * planes.factor[j] * product[j] - cosh * planes.shift[j];
    T slant;
    const T wide = planes.stretch[j] * asinh(std::abs(u), slant);
    const T velocity = std::copysign(sinh(T(LIMIT) < wide ? T(LIMIT) : wide), u);
    out[j] = velocity;
    norm += velocity * velocity;
  }
  return norm;
}

// What a point adds to the sums da, dh and <D, z> F of each output.
template <typename T>
struct Shares {
  T *stretch, *shift, *normal;
};

template <typename T>
struct Turn {
  T to_u, to_h;
};

// The gradient of a point's products from that of its velocities, by g + turn velocity.
template <typename T>
__attribute__((noinline)) Turn<T> velocities_backward(const T* gradient, const T* out,
                                                      const Planes<T> planes, T by, T turn,
                                                      T along, T cosh, int64_t width, T* to,
                                                      const Shares<T> sums) {
  // What was held at the limit, to rounding.
  constexpr T MOST = T(LIMIT) * (T(1) - T(SINGLE<T> ? 2e-6 : 4e-15));
  const T back = T(1) / by;
  T to_u = 0, to_h = 0;
#pragma omp simd reduction(+ : to_u, to_h)
  for (int64_t j = 0; j < width; ++j) {
    const T velocity = back * out[j];
    T steep;
    const T wide = asinh(std::abs(velocity), steep), far = wide * planes.inverse[j];
    const T length = T(80) < far ? T(80) : far, more = expm1(length), power = T(1) + more;
    const T small = T(1) / power, secant = T(2) / (power + small);
    const T u = std::copysign(T(0.5) * (more + more * small), velocity);
    const T pull = wide < MOST ? (by * gradient[j] + turn * velocity) * steep : T(0);
    const T du = pull * planes.stretch[j] * secant;
    sums.stretch[j] += pull * std::copysign(length, velocity);
    sums.shift[j] -= cosh * du;
    sums.normal[j] += du * (u + cosh * planes.shift[j]);
    to_u += du * u;
    to_h += du * planes.shift[j];
    to[j] = along * planes.factor[j] * du;
  }
  return {to_u, to_h};
}

// out = sinh(a asinh(S F p - cosh h)), which is scaled and, for tangents, shortened to its asinh.
template <typename T>
void linear_points(const Tensor& product, const Tensor& squares, const Tensor& factor,
                   const Tensor& stretch, const Tensor& shift, double scale, bool tangent,
                   const Tensor& norms, const Tensor& out) {
  lead_rows("product", product);
  const int64_t width = product.size(-1), count = product.size(0);
  checks::dense("out", out, product, {count, width});
  checks::holds("squares", squares, product, count);
  checks::holds("norms", norms, product, count);
  const Tensor* numbers[] = {&factor, &stretch, &shift};
  const char* names[] = {"factor", "stretch", "shift"};
  for (int64_t k = 0; k < 3; ++k) checks::dense(names[k], *numbers[k], product, {width});
  const Rows<T> in(product), to(out);
  const Planes<T> planes{data<T>(factor), data<T>(stretch), nullptr, data<T>(shift)};
  for_rows(count, 8 * width, [&](int64_t i) {
    const Capped<T> s = capped(data<T>(squares)[i], T(LIMIT));
    T* y = to.row(i);
    const T norm = velocities(in.row(i), planes, s.factor, s.cosh, width, y);
    data<T>(norms)[i] = norm;
    const T by = tangent ? T(scale) * asinhc(norm).value : T(scale);
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) y[j] *= by;
  });
}

// The product becomes its gradient, with F; `sums` are of da, dh and <D, z> F for each output, and
// `along` is the sum of <G, out>.
template <typename T>
void linear_points_backward(const Tensor& gradient, const Tensor& out, const Tensor& squares,
                            const Tensor& norms, const Tensor& factor, const Tensor& stretch,
                            const Tensor& shift, double scale, bool tangent,
                            const Tensor& dproduct, const Tensor& dsquares, const Tensor& sums,
                            const Tensor& along) {
  lead_rows("out", out);
  const int64_t width = out.size(-1), count = out.size(0);
  checks::dense("gradient", gradient, out, {count, width});
  checks::dense("dproduct", dproduct, out, {count, width});
  checks::holds("squares", squares, out, count);
  checks::holds("norms", norms, out, count);
  checks::holds("dsquares", dsquares, out, count);
  checks::dense("sums", sums, out, {3, width});
  checks::holds("along", along, out, 1);
  const Tensor* numbers[] = {&factor, &stretch, &shift};
  const char* names[] = {"factor", "stretch", "shift"};
  for (int64_t k = 0; k < 3; ++k) checks::dense(names[k], *numbers[k], out, {width});
  const Rows<T> from(gradient), in(out), to(dproduct);
  std::vector<T> inverse(width);
  const Planes<T> planes{data<T>(factor), data<T>(stretch), inverse.data(), data<T>(shift)};
  for (int64_t j = 0; j < width; ++j) inverse[j] = T(1) / planes.stretch[j];
  Sums totals(3 * width + 1, chunks_of(count));
  for_spans(count, [&](int64_t chunk, int64_t i, int64_t last) {
    std::vector<T> part(3 * width, T(0));
    const Shares<T> shares{part.data(), part.data() + width, part.data() + 2 * width};
    double* total = totals.chunk(chunk);
    for (; i < last; ++i) {
      const T *g = from.row(i), *y = in.row(i);
      const Capped<T> s = capped(data<T>(squares)[i], T(LIMIT));
      const T all = dot(g, y, width);
      T by = T(scale), turn = 0;
      if (tangent) {
        const Radial<T> r = asinhc(data<T>(norms)[i]);
        by *= r.value;
        turn = T(2 * scale) * r.slope * all / by;
      }
      const Turn<T> of = velocities_backward(g, y, planes, by, turn, s.factor, s.cosh, width,
                                             to.row(i), shares);
      data<T>(dsquares)[i] =
          s.factor_slope / s.factor * (of.to_u + s.cosh * of.to_h) - s.cosh_slope * of.to_h;
      total[3 * width] += all;
    }
    collect(total, part.data(), 3 * width);
  });
  const std::vector<double> total = totals.total();
  for (int64_t k = 0; k < 3 * width; ++k) data<T>(sums)[k] = T(total[k]);
  data<T>(along)[0] = T(total[3 * width]);
}

// dt += 2 coefficient t dsquares.
template <typename T>
void row_squares_backward(const Tensor& dsquares, const Tensor& t, double coefficient,
                          const Tensor& dt) {
  lead_rows("t", t);
  check_rows("dt", dt, t, t.size(-1));
  const Rows<T> in(t), to(dt);
  checks::holds("dsquares", dsquares, t, in.count);
  for_rows(in.count, in.width, [&](int64_t i) {
    add(to.row(i), T(2 * coefficient) * data<T>(dsquares)[i], in.row(i), in.width);
  });
}

// out = A(c |s|^2)/2 s: tangents of space parts.
template <typename T>
void row_tangents(const Tensor& s, double curvature, const Tensor& squares, const Tensor& out) {
  lead_rows("s", s);
  check_rows("out", out, s, s.size(-1));
  const Rows<T> in(s), to(out);
  checks::holds("squares", squares, s, in.count);
  for_rows(in.count, in.width, [&](int64_t i) {
    const T *x = in.row(i), square = T(curvature) * dot(x, x, in.width);
    const T by = T(0.5) * asinhc(square).value;
    T* y = to.row(i);
    data<T>(squares)[i] = square;
#pragma omp simd
    for (int64_t j = 0; j < in.width; ++j) y[j] = by * x[j];
  });
}

template <typename T>
void row_tangents_backward(const Tensor& gradient, const Tensor& out, const Tensor& squares,
                           double curvature, const Tensor& ds, const Tensor& dcurvature) {
  lead_rows("out", out);
  check_rows("gradient", gradient, out, out.size(-1));
  check_rows("ds", ds, out, out.size(-1));
  const Rows<T> from(gradient), in(out), to(ds);
  checks::holds("squares", squares, out, in.count);
  checks::holds("dcurvature", dcurvature, out, 1);
  Sums sums(1, chunks_of(in.count));
  for_spans(in.count, [&](int64_t chunk, int64_t i, int64_t last) {
    for (; i < last; ++i) {
      const T *g = from.row(i), *y = in.row(i), square = data<T>(squares)[i];
      const Radial<T> r = asinhc(square);
      const T by = T(0.5) * r.value, all = dot(g, y, in.width), inner = all / by;
      const T turn = T(curvature) * r.slope * inner / by;
      T* x = to.row(i);
#pragma omp simd
      for (int64_t j = 0; j < in.width; ++j) x[j] = by * g[j] + turn * y[j];
      sums.chunk(chunk)[0] += 0.5 * double(r.slope) * square * inner;
    }
  });
  data<T>(dcurvature)[0] = T(sums.total()[0] / curvature);
}

// out = share g t/sqrt(mean t^2 + eps), the reciprocals of the roots kept.
template <typename T>
void row_norm(const Tensor& t, const Tensor& gain, double share, double eps,
              const Tensor& inverses, const Tensor& out) {
  lead_rows("t", t);
  check_rows("out", out, t, t.size(-1));
  const Rows<T> in(t), to(out);
  checks::dense("gain", gain, t, {in.width});
  checks::holds("inverses", inverses, t, in.count);
  const T* g = data<T>(gain);
  for_rows(in.count, in.width, [&](int64_t i) {
    const T *x = in.row(i), mean = dot(x, x, in.width) / T(in.width);
    const T inverse = T(1) / std::sqrt(mean + T(eps)), by = T(share) * inverse;
    T* y = to.row(i);
    data<T>(inverses)[i] = inverse;
#pragma omp simd
    for (int64_t j = 0; j < in.width; ++j) y[j] = by * g[j] * x[j];
  });
}

// `along` is the sum of <G, out>, from which the gradient of the share follows.
template <typename T>
void row_norm_backward(const Tensor& gradient, const Tensor& out, const Tensor& gain,
                       const Tensor& inverses, double share, const Tensor& dt,
                       const Tensor& dgain, const Tensor& along) {
  lead_rows("out", out);
  check_rows("gradient", gradient, out, out.size(-1));
  check_rows("dt", dt, out, out.size(-1));
  const Rows<T> from(gradient), in(out), to(dt);
  const int64_t width = in.width;
  checks::dense("gain", gain, out, {width});
  checks::dense("dgain", dgain, out, {width});
  checks::holds("inverses", inverses, out, in.count);
  checks::holds("along", along, out, 1);
  const T* weight = data<T>(gain);
  std::vector<T> inverse(width);
  for (int64_t j = 0; j < width; ++j) inverse[j] = T(1 / (share * double(weight[j])));
  const T* per = inverse.data();
  Sums sums(width + 1, chunks_of(in.count));
  for_spans(in.count, [&](int64_t chunk, int64_t i, int64_t last) {
    std::vector<T> part(width, T(0));
    T* sum = part.data();
    for (; i < last; ++i) {
      const T *g = from.row(i), *y = in.row(i), size = data<T>(inverses)[i];
      const T all = dot(g, y, width), mean = all / T(width);
      T* x = to.row(i);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T normed = per[j] * y[j];
        x[j] = size * (T(share) * weight[j] * g[j] - normed * mean);
        sum[j] += g[j] * normed;
      }
      sums.chunk(chunk)[width] += all;
    }
    collect(sums.chunk(chunk), sum, width);
  });
  const std::vector<double> total = sums.total();
  for (int64_t j = 0; j < width; ++j) data<T>(dgain)[j] = T(share * total[j]);
  data<T>(along)[0] = T(total[width]);
}

}  // namespace points
