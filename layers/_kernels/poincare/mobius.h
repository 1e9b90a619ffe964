// Moebius addition of tangents; equations in layers/hyperbolic/mobius_addition.py.

#pragma once

#include "points.h"

namespace points {

// SQUARE_RANGE of layers/hyperbolic/_fast/fused_maps.py.
template <typename T>
constexpr T FAR = SINGLE<T> ? T(5.5e27) : T(8.8e221);

// w = left_scale a + right_scale b is the sum's velocity, and what its gradient needs.
template <typename T>
struct Boost {
  Capped<T> left, right;
  T ratio, left_scale, right_scale;
};

template <typename T>
IN_LOOP Boost<T> boost(T left, T right, T both, T curvature, T root, T largest) {
  Boost<T> s;
  s.left = capped(T(4) * curvature * left, largest);
  s.right = capped(T(4) * curvature * right, largest);
  const T one = root * s.left.factor, two = root * s.right.factor;
  // A square too large for its gradient gives no number; the caller shortens such vectors.
  const T none = left > FAR<T> || right > FAR<T> ? T(NAN) : T(0);
  const T time = s.left.cosh * s.right.cosh + one * two * both + none;
  s.ratio = (s.right.cosh + time) / (T(1) + s.left.cosh);
  s.left_scale = s.ratio * one;
  s.right_scale = two;
  return s;
}

template <typename T>
void mobius(const Tensor& left, const Tensor& right, double curvature, double largest,
            const Tensor& norms, const Tensor& out) {
  check_map("left", left);
  checks::laid_out_like("right", right, left);
  checks::holds("norms", norms, left, points_of(left));
  checks::laid_out_like("out", out, left);
  const Map<T> a_map(left), b_map(right), to(out);
  const T root = T(2 * std::sqrt(curvature));
  for_tiles(a_map, [&](int64_t, const Tile& tile) {
    T a_row[L<T>], b_row[L<T>], aa[L<T>] = {}, bb[L<T>] = {}, ab[L<T>] = {}, norm[L<T>] = {};
    std::vector<T> kept(a_map.channels * L<T>);
    for (int64_t c = 0; c < a_map.channels; ++c) {
      const T *a = read(a_map, tile, c, a_row), *b = read(b_map, tile, c, b_row);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        aa[j] += a[j] * a[j];
        bb[j] += b[j] * b[j];
        ab[j] += a[j] * b[j];
      }
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const Boost<T> s = boost(aa[j], bb[j], ab[j], T(curvature), root, T(largest));
      aa[j] = s.left_scale, bb[j] = s.right_scale;
    }
    for (int64_t c = 0; c < a_map.channels; ++c) {
      const T *a = read(a_map, tile, c, a_row), *b = read(b_map, tile, c, b_row);
      T* row = kept.data() + c * L<T>;
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        row[j] = aa[j] * a[j] + bb[j] * b[j];
        norm[j] += row[j] * row[j];
      }
    }
    write_numbers(data<T>(norms), tile, norm);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) norm[j] = asinhc(norm[j]).value / root;
    for (int64_t c = 0; c < a_map.channels; ++c) {
      const T* row = kept.data() + c * L<T>;
      T* result = open(to, tile, c, a_row);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) result[j] = norm[j] * row[j];
      close(to, tile, c, a_row);
    }
  });
}

template <typename T>
void mobius_backward(const Tensor& gradient, const Tensor& left, const Tensor& right,
                     double curvature, double largest, const Tensor& norms,
                     const Tensor& dleft, const Tensor& dright, const Tensor& dcurvature) {
  check_map("left", left);
  checks::laid_out_like("gradient", gradient, left);
  checks::laid_out_like("right", right, left);
  checks::holds("norms", norms, left, points_of(left));
  checks::laid_out_like("dleft", dleft, left);
  checks::laid_out_like("dright", dright, left);
  checks::holds("dcurvature", dcurvature, left, 1);
  const Map<T> g_map(gradient), a_map(left), b_map(right), to_left(dleft), to_right(dright);
  const T root = T(2 * std::sqrt(curvature)), c4 = T(4 * curvature), c = T(curvature);
  Sums sums(1);
  for_tiles(a_map, [&](int64_t chunk, const Tile& tile) {
    T a_row[L<T>], b_row[L<T>], g_row[L<T>], norm[L<T>];
    T aa[L<T>] = {}, bb[L<T>] = {}, ab[L<T>] = {}, ga[L<T>] = {}, gb[L<T>] = {}, mixed[L<T>];
    for (int64_t i = 0; i < a_map.channels; ++i) {
      const T *a = read(a_map, tile, i, a_row), *b = read(b_map, tile, i, b_row);
      const T* g = read(g_map, tile, i, g_row);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        aa[j] += a[j] * a[j];
        bb[j] += b[j] * b[j];
        ab[j] += a[j] * b[j];
        ga[j] += g[j] * a[j];
        gb[j] += g[j] * b[j];
      }
    }
    read_numbers(data<T>(norms), tile, norm);
    T part[L<T>];
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const Boost<T> s = boost(aa[j], bb[j], ab[j], c, root, T(largest));
      const Radial<T> f = asinhc(norm[j]);
      const T along = s.left_scale * ga[j] + s.right_scale * gb[j], gain = f.value / root;
      const T extra = T(2) * f.slope / root * along;
      const T dfirst = gain * ga[j] + extra * (s.left_scale * aa[j] + s.right_scale * ab[j]);
      const T dsecond = gain * gb[j] + extra * (s.left_scale * ab[j] + s.right_scale * bb[j]);
      const T one = root * s.left.factor, two = root * s.right.factor;
      const T dratio = dfirst * one, dtime = dratio / (T(1) + s.left.cosh);
      const T dleft_cosh = dtime * (s.right.cosh - s.ratio);
      const T dright_cosh = dtime * (T(1) + s.left.cosh);
      const T done = dfirst * s.ratio + dtime * two * ab[j], dtwo = dsecond + dtime * one * ab[j];
      const T dboth = dtime * one * two;
      const T da = done * root * s.left.factor_slope + dleft_cosh * s.left.cosh_slope;
      const T db = dtwo * root * s.right.factor_slope + dright_cosh * s.right.cosh_slope;
      part[j] = T(4) * (da * aa[j] + db * bb[j]) +
                T(0.5) * (done * one + dtwo * two - gain * along) / c;
      // dleft = ga g + aa a + mixed b, dright = gb g + mixed a + bb b.
      ga[j] = s.left_scale * gain, gb[j] = s.right_scale * gain;
      aa[j] = s.left_scale * extra * s.left_scale + T(2) * c4 * da;
      bb[j] = s.right_scale * extra * s.right_scale + T(2) * c4 * db;
      mixed[j] = s.left_scale * extra * s.right_scale + dboth;
    }
    // Missing lanes are zero throughout.
    sums.chunk(chunk)[0] += sum_of(part);
    T one_row[L<T>], two_row[L<T>];
    for (int64_t i = 0; i < a_map.channels; ++i) {
      const T *a = read(a_map, tile, i, a_row), *b = read(b_map, tile, i, b_row);
      const T* g = read(g_map, tile, i, g_row);
      T *one = open(to_left, tile, i, one_row), *two = open(to_right, tile, i, two_row);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        one[j] = ga[j] * g[j] + aa[j] * a[j] + mixed[j] * b[j];
        two[j] = gb[j] * g[j] + mixed[j] * a[j] + bb[j] * b[j];
      }
      close(to_left, tile, i, one_row);
      close(to_right, tile, i, two_row);
    }
  });
  data<T>(dcurvature)[0] = T(sums.total()[0]);
}

}  // namespace points
