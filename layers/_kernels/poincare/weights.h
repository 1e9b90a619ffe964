// What layers make of their parameters before they see a point: hyperplanes, and one point's
// velocity. A handful of numbers, in one call instead of some twenty; sums in double.

#pragma once

#include "points.h"

namespace points {

// z of any number of axes, r for each of its rows or for none of them.
inline void check_hyperplanes(const Tensor& weight, const Tensor& offset) {
  checks::leads("weight", weight);
  if (weight.dim() < 1) checks::refuse("weight has no rows");
  if (!weight.is_contiguous()) checks::refuse("weight must be contiguous");
  checks::holds("offset", offset, weight, offset.numel() ? weight.size(0) : 0);
}

// direction = gain s cosh(s r)/|z| z, stretch = 2|z|, shift = sinh(s r), s = 2 sqrt c.
template <typename T>
void hyperplanes(const Tensor& weight, const Tensor& offset, double curvature, double gain,
                 const Tensor& direction, const Tensor& stretch, const Tensor& shift) {
  check_hyperplanes(weight, offset);
  checks::holds("direction", direction, weight, weight.numel());
  checks::dense("stretch", stretch, weight, {weight.size(0)});
  checks::dense("shift", shift, weight, {weight.size(0)});
  const int64_t rows = weight.size(0), width = rows ? weight.numel() / rows : 0;
  const double s = 2 * std::sqrt(curvature);
  const double least = SINGLE<T> ? 1.17549435e-38 : 2.2250738585072014e-308;
  for (int64_t k = 0; k < rows; ++k) {
    const T* z = data<T>(weight) + k * width;
    const double r = offset.numel() ? double(data<T>(offset)[k]) : 0;
    double square = 0;
    for (int64_t i = 0; i < width; ++i) square += double(z[i]) * double(z[i]);
    const double length = std::sqrt(std::max(square, least));
    const T factor = T(gain * s * std::cosh(s * r) / length);
    T* out = data<T>(direction) + k * width;
    for (int64_t i = 0; i < width; ++i) out[i] = factor * z[i];
    data<T>(stretch)[k] = T(2 * length);
    data<T>(shift)[k] = T(std::sinh(s * r));
  }
}

template <typename T>
void hyperplanes_backward(const Tensor& ddirection, const Tensor& dstretch, const Tensor& dshift,
                          const Tensor& weight, const Tensor& offset, double curvature,
                          double gain, const Tensor& dweight, const Tensor& doffset,
                          const Tensor& dcurvature) {
  check_hyperplanes(weight, offset);
  checks::holds("ddirection", ddirection, weight, weight.numel());
  checks::dense("dstretch", dstretch, weight, {weight.size(0)});
  checks::dense("dshift", dshift, weight, {weight.size(0)});
  checks::holds("dweight", dweight, weight, weight.numel());
  checks::holds("doffset", doffset, weight, offset.numel());
  checks::holds("dcurvature", dcurvature, weight, 1);
  const int64_t rows = weight.size(0), width = rows ? weight.numel() / rows : 0;
  const double s = 2 * std::sqrt(curvature);
  const double least = SINGLE<T> ? 1.17549435e-38 : 2.2250738585072014e-308;
  double ds = 0;
  for (int64_t k = 0; k < rows; ++k) {
    const T *z = data<T>(weight) + k * width, *d = data<T>(ddirection) + k * width;
    const double r = offset.numel() ? double(data<T>(offset)[k]) : 0;
    double square = 0, along = 0;
    for (int64_t i = 0; i < width; ++i) {
      square += double(z[i]) * double(z[i]);
      along += double(d[i]) * double(z[i]);
    }
    const double length = std::sqrt(std::max(square, least)), cosh = std::cosh(s * r);
    const double sinh = std::sinh(s * r), factor = gain * s * cosh / length;
    const double turn = along * gain * s * sinh / length + double(data<T>(dshift)[k]) * cosh;
    const double dlength = 2 * double(data<T>(dstretch)[k]) - along * factor / length;
    // A row held at the least length passes nothing on through its length.
    const T own = square >= least ? T(dlength / length) : T(0), share = T(factor);
    T* out = data<T>(dweight) + k * width;
    for (int64_t i = 0; i < width; ++i) out[i] = share * d[i] + own * z[i];
    ds += along * factor / s + turn * r;
    if (offset.numel()) data<T>(doffset)[k] = T(turn * s);
  }
  data<T>(dcurvature)[0] = T(ds * s / (2 * curvature));
}

// velocity = s sinh(s|t|)/(s|t|) t of one tangent, s = 2 sqrt c.
template <typename T>
void velocity(const Tensor& t, double curvature, const Tensor& out) {
  checks::leads("t", t);
  checks::holds("t", t, t, t.numel());
  checks::holds("out", out, t, t.numel());
  double square = 0, cosh;
  for (int64_t i = 0; i < t.numel(); ++i) square += double(data<T>(t)[i]) * double(data<T>(t)[i]);
  const double scale = 2 * std::sqrt(curvature) * sinhc(4 * curvature * square, cosh).value;
  for (int64_t i = 0; i < t.numel(); ++i) data<T>(out)[i] = T(scale * double(data<T>(t)[i]));
}

template <typename T>
void velocity_backward(const Tensor& gradient, const Tensor& t, double curvature, const Tensor& dt,
                       const Tensor& dcurvature) {
  checks::leads("t", t);
  checks::holds("t", t, t, t.numel());
  checks::holds("gradient", gradient, t, t.numel());
  checks::holds("dt", dt, t, t.numel());
  checks::holds("dcurvature", dcurvature, t, 1);
  double square = 0, along = 0, cosh;
  for (int64_t i = 0; i < t.numel(); ++i) {
    square += double(data<T>(t)[i]) * double(data<T>(t)[i]);
    along += double(data<T>(t)[i]) * double(data<T>(gradient)[i]);
  }
  const double s = 2 * std::sqrt(curvature);
  const Radial<double> f = sinhc(4 * curvature * square, cosh);
  const double own = 8 * curvature * s * f.slope * along;
  for (int64_t i = 0; i < t.numel(); ++i)
    data<T>(dt)[i] =
        T(s * f.value * double(data<T>(gradient)[i]) + own * double(data<T>(t)[i]));
  data<T>(dcurvature)[0] = T(along * s * (f.value / (2 * curvature) + 4 * square * f.slope));
}

// Running statistics, a tangent and a variance, moved towards a batch's: along the chord between
// velocities, back on the hyperboloid.
template <typename T>
void move_midpoint(const Tensor& now, const Tensor& spread, double curvature, double weight,
                   const Tensor& midpoint, const Tensor& variance) {
  checks::leads("now", now);
  checks::holds("now", now, now, now.numel());
  checks::holds("spread", spread, now, 1);
  checks::holds("midpoint", midpoint, now, now.numel());
  checks::holds("variance", variance, now, 1);
  const int64_t width = now.numel();
  const T* to = data<T>(now);
  T *t = data<T>(midpoint), *var = data<T>(variance);
  double square = 0, other = 0, cosh;
  for (int64_t i = 0; i < width; ++i) {
    square += double(t[i]) * double(t[i]);
    other += double(to[i]) * double(to[i]);
  }
  const double s = 2 * std::sqrt(curvature);
  const double grow = (1 - weight) * s * sinhc(s * s * square, cosh).value;
  const double time = (1 - weight) * cosh + weight * std::sqrt(1 + other);
  std::vector<double> space(width);
  double apart = 0, norm = 0;
  for (int64_t i = 0; i < width; ++i) {
    space[i] = grow * double(t[i]) + weight * double(to[i]);
    apart += space[i] * space[i];
  }
  const double root = std::sqrt(time * time - apart);
  for (double& x : space) x /= root, norm += x * x;
  const double shrink = asinhc(norm).value / s;
  for (int64_t i = 0; i < width; ++i) t[i] = T(shrink * space[i]);
  var[0] = T(double(var[0]) + weight * (double(data<T>(spread)[0]) / curvature - double(var[0])));
}

}  // namespace points
