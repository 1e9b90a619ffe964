// Linear layers and convolutions around their product; equations in
// layers/hyperbolic/maths/hyperplanes.py.

#pragma once

#include "points.h"

namespace points {

constexpr double LIMIT = 30.0;  // as in layers/hyperbolic/maths/coordinates.py

// A box filter of one channel (ky, kx), or its transpose, added to `to`.
struct Box {
  int64_t height, width, out_height, out_width;
  std::vector<int64_t> kernel, stride, padding, dilation;

  template <typename T>
  void add(const T* from, T* to, bool transposed) const {
    for (int64_t y = 0; y < out_height; ++y)
      for (int64_t ky = 0; ky < kernel[0]; ++ky) {
        const int64_t iy = y * stride[0] - padding[0] + ky * dilation[0];
        if (iy < 0 || iy >= height) continue;
        for (int64_t kx = 0; kx < kernel[1]; ++kx) {
          const int64_t shift = kx * dilation[1] - padding[1], step = stride[1];
          const int64_t first = shift < 0 ? (-shift + step - 1) / step : 0;
          const int64_t last =
              shift >= width ? 0 : std::min(out_width, (width - 1 - shift) / step + 1);
          const int64_t in = iy * width + shift, out = y * out_width;
          if (transposed) {
#pragma omp simd
            for (int64_t x = first; x < last; ++x) to[in + x * step] += from[out + x];
          } else {
#pragma omp simd
            for (int64_t x = first; x < last; ++x) to[out + x] += from[in + x * step];
          }
        }
      }
  }
};

// That `place` is a box whose outputs on t fill `square`, one number for each group's patch.
inline void check_box(const Tensor& t, int64_t groups, const std::vector<int64_t>& place,
                      const char* name, const Tensor& square) {
  check_map("t", t, groups);
  if (place.size() != 8) checks::refuse("place holds ", place.size(), " numbers, expected 8");
  for (int64_t k = 0; k < 8; ++k)
    if (place[k] < (k == 4 || k == 5 ? 0 : 1) || place[k] > INT32_MAX)
      checks::refuse("place holds ", place[k]);
  if (t.dim() == 2) {
    const std::vector<int64_t> point{1, 1, 1, 1, 0, 0, 1, 1};
    if (place != point) checks::refuse("place must be that of a point where t has no pixels");
    return checks::dense(name, square, t, {t.size(0), groups});
  }
  if (t.dim() != 4) checks::refuse("t has shape ", checks::shape(t), ", expected (B, C, H, W)");
  auto outputs = [&](int64_t k) {
    const int64_t reach = place[6 + k] * (place[k] - 1) + 1;
    const int64_t room = t.size(2 + k) + 2 * place[4 + k] - reach;
    if (room < 0) checks::refuse("place is wider than t, which has shape ", checks::shape(t));
    return room / place[2 + k] + 1;
  };
  checks::dense(name, square, t, {t.size(0), groups, outputs(0), outputs(1)});
}

inline Box box_of(const Tensor& t, const Tensor& square, const std::vector<int64_t>& place) {
  const bool flat = t.dim() < 4;
  auto pair = [&](int64_t k) { return std::vector<int64_t>{place[2 * k], place[2 * k + 1]}; };
  return {flat ? 1 : t.size(2),      flat ? 1 : t.size(3), flat ? 1 : square.size(2),
          flat ? 1 : square.size(3), pair(0),              pair(1),
          pair(2),                   pair(3)};
}

// square = coefficient * box(sum over channels of t^2) for each group.
template <typename T>
void patch_squares(const Tensor& t, int64_t groups, const std::vector<int64_t>& place,
                   double coefficient, const Tensor& square) {
  check_box(t, groups, place, "square", square);
  const Map<T> map(t, groups);
  const Box box = box_of(t, square, place);
  std::unique_ptr<T[]> norms(new T[map.points()]);
  for_tiles(map, [&](int64_t, const Tile& tile) {
    T buffer[L<T>], sum[L<T>] = {};
    for (int64_t c = 0; c < map.channels; ++c) {
      const T* row = read(map, tile, c, buffer);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) sum[j] += row[j] * row[j];
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) sum[j] *= T(coefficient);
    write_numbers(norms.get(), tile, sum);
  });
  T* out = data<T>(square);
  const int64_t area = box.height * box.width, out_area = box.out_height * box.out_width;
  std::fill(out, out + square.numel(), T(0));
  torch::stable::parallel_for(0, area ? map.points() / area : 0, 1, [&](int64_t i, int64_t last) {
    for (; i < last; ++i) box.add(norms.get() + i * area, out + i * out_area, false);
  });
}

// dt += 2 coefficient t box^T(dsquare).
template <typename T>
void patch_squares_backward(const Tensor& dsquare, const Tensor& t, int64_t groups,
                            const std::vector<int64_t>& place, double coefficient,
                            const Tensor& dt) {
  check_box(t, groups, place, "dsquare", dsquare);
  checks::laid_out_like("dt", dt, t);
  const Map<T> map(t, groups), result(dt, groups);
  const Box box = box_of(t, dsquare, place);
  std::vector<T> norms(map.points(), T(0));
  const T* from = data<T>(dsquare);
  const int64_t area = box.height * box.width, out_area = box.out_height * box.out_width;
  torch::stable::parallel_for(0, area ? map.points() / area : 0, 1, [&](int64_t i, int64_t last) {
    for (; i < last; ++i) box.add(from + i * out_area, norms.data() + i * area, true);
  });
  for_tiles(map, [&](int64_t, const Tile& tile) {
    T buffer[L<T>], other[L<T>], scale[L<T>];
    read_numbers(norms.data(), tile, scale);
    for (int64_t c = 0; c < map.channels; ++c) {
      const T* row = read(map, tile, c, buffer);
      T* out = const_cast<T*>(read(result, tile, c, other));
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) out[j] += T(2 * coefficient) * scale[j] * row[j];
      close(result, tile, c, other);
    }
  });
}

// u = S product - cosh shift, velocity = sinh(stretch asinh u).
template <typename T>
void planes(const Tensor& product, const Tensor& square, const Tensor& stretch,
            const Tensor& shift, int64_t groups, const Tensor& u, const Tensor& velocity) {
  check_map("product", product, groups);
  checks::holds("square", square, product, points_of(product, groups));
  checks::dense("stretch", stretch, product, {product.size(1)});
  checks::dense("shift", shift, product, {product.size(1)});
  checks::laid_out_like("u", u, product);
  checks::laid_out_like("velocity", velocity, product);
  const Map<T> in(product, groups), to_u(u, groups), to_velocity(velocity, groups);
  const T *a = data<T>(stretch), *h = data<T>(shift), *squares = data<T>(square);
  for_tiles(in, [&](int64_t, const Tile& tile) {
    T buffer[L<T>], u_buffer[L<T>], w_buffer[L<T>], x[L<T>], along[L<T>], cosh[L<T>];
    read_numbers(squares, tile, x);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const Capped<T> s = capped(x[j], T(LIMIT));
      along[j] = s.factor, cosh[j] = s.cosh;
    }
    const int64_t first = tile.image % groups * in.channels;
    for (int64_t c = 0; c < in.channels; ++c) {
      const T* row = read(in, tile, c, buffer);
      T *to = open(to_u, tile, c, u_buffer), *out = open(to_velocity, tile, c, w_buffer);
      const T angle = a[first + c], offset = h[first + c];
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        const T value = along[j] * row[j] - cosh[j] * offset;
        T slant;
        const T wide = angle * asinh(std::abs(value), slant);
        to[j] = value;
        out[j] = std::copysign(sinh(T(LIMIT) < wide ? T(LIMIT) : wide), value);
      }
      close(to_u, tile, c, u_buffer);
      close(to_velocity, tile, c, w_buffer);
    }
  });
}

template <typename T>
void planes_backward(const Tensor& gradient, const Tensor& u, const Tensor& velocity,
                     const Tensor& square, const Tensor& stretch, const Tensor& shift,
                     int64_t groups, const Tensor& dproduct, const Tensor& dsquare,
                     const Tensor& dstretch, const Tensor& dshift) {
  check_map("u", u, groups);
  checks::laid_out_like("gradient", gradient, u);
  checks::laid_out_like("velocity", velocity, u);
  checks::holds("square", square, u, points_of(u, groups));
  checks::laid_out_like("dproduct", dproduct, u);
  checks::holds("dsquare", dsquare, u, points_of(u, groups));
  const Tensor* numbers[] = {&stretch, &shift, &dstretch, &dshift};
  const char* names[] = {"stretch", "shift", "dstretch", "dshift"};
  for (int64_t i = 0; i < 4; ++i) checks::dense(names[i], *numbers[i], u, {u.size(1)});
  const Map<T> in(gradient, groups), us(u, groups), ws(velocity, groups), to(dproduct, groups);
  const T *a = data<T>(stretch), *h = data<T>(shift), *squares = data<T>(square);
  const int64_t width = in.channels * groups;
  Sums sums(2 * width);
  for_tiles(in, [&](int64_t chunk, const Tile& tile) {
    T g_row[L<T>], u_row[L<T>], w_row[L<T>], d_row[L<T>], x[L<T>];
    T along[L<T>], steep[L<T>], cosh[L<T>], half[L<T>], to_u[L<T>] = {}, to_h[L<T>] = {};
    read_numbers(squares, tile, x);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const Capped<T> s = capped(x[j], T(LIMIT));
      along[j] = s.factor, steep[j] = s.factor_slope / s.factor;
      cosh[j] = s.cosh, half[j] = s.cosh_slope;
    }
    const int64_t first = tile.image % groups * in.channels;
    double* sum = sums.chunk(chunk) + first;
    for (int64_t c = 0; c < in.channels; ++c) {
      const T *g = read(in, tile, c, g_row), *value = read(us, tile, c, u_row);
      const T* w = read(ws, tile, c, w_row);
      T *out = open(to, tile, c, d_row), da[L<T>], dh[L<T>];
      const T angle = a[first + c], offset = h[first + c];
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        T secant;
        const T length = asinh_and_secant(std::abs(value[j]), secant);
        const T pull = angle * length > T(LIMIT) ? T(0) : g[j] * std::sqrt(T(1) + w[j] * w[j]);
        const T du = pull * angle * secant;
        da[j] = pull * std::copysign(length, value[j]);
        dh[j] = cosh[j] * du;
        to_u[j] += du * value[j];
        to_h[j] += du * offset;
        out[j] = along[j] * du;
      }
      sum[c] += sum_of(da);
      sum[width + c] -= sum_of(dh);
      close(to, tile, c, d_row);
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j)
      x[j] = steep[j] * (to_u[j] + cosh[j] * to_h[j]) - half[j] * to_h[j];
    write_numbers(data<T>(dsquare), tile, x);
  });
  const std::vector<double> total = sums.total();
  for (int64_t c = 0; c < width; ++c) {
    data<T>(dstretch)[c] = T(total[c]);
    data<T>(dshift)[c] = T(total[width + c]);
  }
}

// out = scale asinh(r)/r velocity with r^2 = |velocity|^2: tangents, scale = 1/(2 sqrt c).
template <typename T>
void tangents(const Tensor& velocity, double scale, int64_t groups, const Tensor& out) {
  check_map("velocity", velocity, groups);
  checks::laid_out_like("out", out, velocity);
  const Map<T> in(velocity, groups), to(out, groups);
  for_tiles(in, [&](int64_t, const Tile& tile) {
    T buffer[L<T>], other[L<T>], square[L<T>] = {}, factor[L<T>];
    for (int64_t c = 0; c < in.channels; ++c) {
      const T* row = read(in, tile, c, buffer);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) square[j] += row[j] * row[j];
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) factor[j] = T(scale) * asinhc(square[j]).value;
    for (int64_t c = 0; c < in.channels; ++c) {
      const T* row = read(in, tile, c, buffer);
      T* result = open(to, tile, c, other);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) result[j] = factor[j] * row[j];
      close(to, tile, c, other);
    }
  });
}

// Also along = sum <gradient, out>, from which the gradient of the scale follows.
template <typename T>
void tangents_backward(const Tensor& gradient, const Tensor& velocity, double scale,
                       int64_t groups, const Tensor& dvelocity, const Tensor& along) {
  check_map("velocity", velocity, groups);
  checks::laid_out_like("gradient", gradient, velocity);
  checks::laid_out_like("dvelocity", dvelocity, velocity);
  checks::holds("along", along, velocity, 1);
  const Map<T> from(gradient, groups), in(velocity, groups), to(dvelocity, groups);
  Sums sums(1);
  for_tiles(in, [&](int64_t chunk, const Tile& tile) {
    T g_row[L<T>], row[L<T>], other[L<T>], square[L<T>] = {}, dot[L<T>] = {}, factor[L<T>];
    for (int64_t c = 0; c < in.channels; ++c) {
      const T *g = read(from, tile, c, g_row), *w = read(in, tile, c, row);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) square[j] += w[j] * w[j], dot[j] += g[j] * w[j];
    }
    T part[L<T>];
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const Radial<T> f = asinhc(square[j]);
      factor[j] = T(scale) * f.value;
      part[j] = factor[j] * dot[j];
      dot[j] *= T(2 * scale) * f.slope;
    }
    sums.chunk(chunk)[0] += sum_of(part);
    for (int64_t c = 0; c < in.channels; ++c) {
      const T *g = read(from, tile, c, g_row), *w = read(in, tile, c, row);
      T* result = open(to, tile, c, other);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) result[j] = factor[j] * g[j] + dot[j] * w[j];
      close(to, tile, c, other);
    }
  });
  data<T>(along)[0] = T(sums.total()[0]);
}

}  // namespace points
