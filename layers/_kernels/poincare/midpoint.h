// Midpoint batch normalisation; equations in layers/hyperbolic/norm.py and _fast/fused_norm.py.

#pragma once

#include "points.h"

namespace points {

// (cosh(rho) - 1)/2 between a velocity and a point, by the form that keeps more digits. square is
// that of their difference, later the difference of their times.
template <typename T>
IN_LOOP T half_excess(T square, T later, T product, T time, T other) {
  const T near = T(0.5) * (square - later * later), times = time * other;
  const T far = times - product - T(1), is_near = T(square < times);
  // No branches, which would keep the loop from being vectorised.
  const T excess = is_near * near + (T(1) - is_near) * far;
  return T(0.25) * (excess + std::abs(excess));
}

// The transform of one point: out = k d + q M + p b, with what its gradient needs.
template <typename T>
struct Step {
  T k, q, p, slow, stretch_slope, slow_slope, spread_slope;
};

template <typename T>
IN_LOOP Step<T> step(T half, T delay, T scale, T between) {
  const T length = asinhc(half).value, angle = T(4) * half * length * length;
  T cosh;
  const Radial<T> own = sinhc(angle, cosh);
  const Capped<T> other = capped(scale * scale * angle, T(30));
  const T excess = T(2) * half, n = T(1) / (T(1) + between);
  Step<T> s;
  s.slow = scale / own.value;
  s.k = other.factor * s.slow;
  s.q = -s.k * (delay + excess) * n;
  s.p = other.cosh + s.k * (excess * between - delay) * n;
  s.stretch_slope = other.cosh_slope;
  s.slow_slope = other.factor_slope;
  s.spread_slope = T(2) / own.value;
  return s;
}

// Numbers of one batch, in double: M, b, their times and product, s, nu.
struct Frame {
  std::vector<double> mean, target;
  double mean_time, target_time, between, mean_square, mean_target, scale, inner;
};

template <typename T>
Frame frame(const Tensor& mean, const Tensor& target, const Tensor& variance, double curvature,
            double eps, const Tensor& moments) {
  Frame f;
  const int64_t width = target.numel();
  f.mean.assign(data<T>(mean), data<T>(mean) + width);
  f.target.assign(data<T>(target), data<T>(target) + width);
  double square = 0, other = 0, both = 0;
  for (int64_t c = 0; c < width; ++c) {
    square += f.mean[c] * f.mean[c], other += f.target[c] * f.target[c];
    both += f.mean[c] * f.target[c];
  }
  f.mean_square = square, f.mean_target = both;
  f.mean_time = std::sqrt(1 + square), f.target_time = std::sqrt(1 + other);
  f.between = f.mean_time * f.target_time - both;
  f.inner = double(data<T>(moments)[0]) / curvature + eps;
  f.scale = std::sqrt(double(data<T>(variance)[0]) / f.inner);
  return f;
}

// Of one tile's velocities w and d = w - M: X, |d|^2, <d, M>, <d, b>, and what follows from them.
template <typename T>
struct Products {
  T time[L<T>] = {}, apart[L<T>] = {}, along[L<T>] = {}, across[L<T>] = {};
  T later[L<T>], half[L<T>], delay[L<T>];

  void take(const Map<T>& in, const Tile& tile, const std::vector<double>& mean,
            const std::vector<double>& target) {
    T buffer[L<T>];
    for (int64_t c = 0; c < in.channels; ++c) {
      const T* w = read(in, tile, c, buffer);
      const T m = T(mean[c]), b = T(target[c]);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        const T d = w[j] - m;
        time[j] += w[j] * w[j];
        apart[j] += d * d;
        along[j] += d * m;
        across[j] += d * b;
      }
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) time[j] = std::sqrt(T(1) + time[j]);
  }

  // Rows of numbers per point: time, apart, along, across.
  void load(const T* numbers, int64_t points, const Tile& tile) {
    T* rows[] = {time, apart, along, across};
    for (int64_t i = 0; i < 4; ++i) read_numbers(numbers + i * points, tile, rows[i]);
    for (int64_t j = tile.count; j < L<T>; ++j) time[j] = T(1);
  }

  void store(T* numbers, int64_t points, const Tile& tile) const {
    const T* rows[] = {time, apart, along, across};
    for (int64_t i = 0; i < 4; ++i) write_numbers(numbers + i * points, tile, rows[i]);
  }

  // From products with nu M, of square `square`, to those with M; share = 1 - 1/nu.
  __attribute__((noinline)) void shift(T share, T inverse, T square, T with_target) {
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      apart[j] += T(2) * share * along[j] + share * share * square;
      across[j] += share * with_target;
      along[j] = (along[j] + share * square) * inverse;
    }
  }

  // Apart from the others, where the compiler would not vectorise it.
  __attribute__((noinline)) void finish(T other, T turn, T square) {
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T difference = (apart[j] + T(2) * along[j]) / (time[j] + other);
      later[j] = difference;
      half[j] = half_excess(apart[j], difference, along[j] + square, time[j], other);
      delay[j] = turn * difference - across[j];
    }
  }
};

// What both directions are given; there must be points to take a mean of.
inline void check_normalise(const Tensor& velocity, const Tensor& target, const Tensor& variance,
                            const Tensor& mean, const Tensor& moments, const Tensor& numbers) {
  check_map("velocity", velocity);
  if (!velocity.numel()) checks::refuse("velocity has no points");
  checks::dense("target", target, velocity, {velocity.size(1)});
  checks::holds("variance", variance, velocity, 1);
  checks::dense("mean", mean, velocity, {velocity.size(1)});
  checks::dense("moments", moments, velocity, {2});
  checks::dense("numbers", numbers, velocity, {5, points_of(velocity)});
}

template <typename T>
void normalise(const Tensor& velocity, const Tensor& target, const Tensor& variance,
               double curvature, double eps, bool batch, const Tensor& mean,
               const Tensor& moments, const Tensor& numbers, const Tensor& out) {
  check_normalise(velocity, target, variance, mean, moments, numbers);
  checks::laid_out_like("out", out, velocity);
  const Map<T> in(velocity), to(out);
  const int64_t width = in.channels;
  const double count = double(in.points());
  T *midpoint = data<T>(mean), *moment = data<T>(moments);
  T* products = data<T>(numbers) + in.points();
  std::unique_ptr<T[]> halves(new T[in.points()]), delays(new T[in.points()]);
  Frame f = frame<T>(mean, target, variance, curvature, eps, moments);
  double nu = 1, share = 0;
  if (batch) {
    Sums sums(width), excesses(1);
    for_tiles(in, [&](int64_t chunk, const Tile& tile) {
      T buffer[L<T>];
      for (int64_t c = 0; c < width; ++c) {
        const T* w = read(in, tile, c, buffer);
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < L<T>; ++j) sum += w[j];
        sums.chunk(chunk)[c] += sum;
      }
    });
    const std::vector<double> centre = sums.total();
    for (int64_t c = 0; c < width; ++c) midpoint[c] = T(centre[c] / count);
    // The frame of the mean of the velocities, nu M, from which that of M follows.
    f = frame<T>(mean, target, variance, curvature, eps, moments);
    for_tiles(in, [&](int64_t chunk, const Tile& tile) {
      Products<T> of;
      of.take(in, tile, f.mean, f.target);
      of.finish(T(f.mean_time), T(f.target_time), T(f.mean_square));
      of.store(products, in.points(), tile);
      double sum = 0;
      for (int64_t j = 0; j < tile.count; ++j) sum += of.half[j];
      excesses.chunk(chunk)[0] += 2 * sum;
    });
    const double excess = excesses.total()[0] / count;
    const double more = excess * (2 + excess / (1 + f.mean_square));
    nu = std::sqrt(1 + more), share = more / ((1 + nu) * nu);
    moment[1] = T(nu);
    for (int64_t c = 0; c < width; ++c) midpoint[c] = T(f.mean[c] / nu);
  }
  const double square = f.mean_square, with_target = f.mean_target;
  f = frame<T>(mean, target, variance, curvature, eps, moments);
  Sums spread(1);
  for_tiles(in, [&](int64_t chunk, const Tile& tile) {
    Products<T> of;
    if (batch) {
      of.load(products, in.points(), tile);
      of.shift(T(share), T(1 / nu), T(square), T(with_target));
    } else {
      of.take(in, tile, f.mean, f.target);
    }
    of.finish(T(f.mean_time), T(f.target_time), T(f.mean_square));
    of.store(products, in.points(), tile);
    T angle[L<T>];
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T length = asinhc(of.half[j]).value;
      angle[j] = T(4) * of.half[j] * length * length;
    }
    double sum = 0;
    for (int64_t j = 0; j < tile.count; ++j) sum += angle[j];
    spread.chunk(chunk)[0] += sum;
    write_numbers(halves.get(), tile, of.half);
    write_numbers(delays.get(), tile, of.delay);
  });
  if (batch) {
    moment[0] = T(spread.total()[0] / count);
    f = frame<T>(mean, target, variance, curvature, eps, moments);
  }
  const T scale = T(0.5 / std::sqrt(curvature));
  for_tiles(in, [&](int64_t, const Tile& tile) {
    std::vector<T> kept(width * L<T>);
    T buffer[L<T>], half[L<T>], delay[L<T>], k[L<T>], q[L<T>], p[L<T>], norm[L<T>] = {};
    read_numbers(halves.get(), tile, half);
    read_numbers(delays.get(), tile, delay);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const Step<T> s = step(half[j], delay[j], T(f.scale), T(f.between));
      k[j] = s.k, q[j] = s.q, p[j] = s.p;
    }
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, buffer), m = T(f.mean[c]), b = T(f.target[c]);
      T* row = kept.data() + c * L<T>;
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        row[j] = k[j] * (w[j] - m) + q[j] * m + p[j] * b;
        norm[j] += row[j] * row[j];
      }
    }
    write_numbers(data<T>(numbers), tile, norm);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) k[j] = scale * asinhc(norm[j]).value;
    for (int64_t c = 0; c < width; ++c) {
      const T* row = kept.data() + c * L<T>;
      T* result = open(to, tile, c, buffer);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) result[j] = k[j] * row[j];
      close(to, tile, c, buffer);
    }
  });
}

template <typename T>
void normalise_backward(const Tensor& gradient, const Tensor& velocity, const Tensor& target,
                        const Tensor& variance, double curvature, double eps, bool batch,
                        const Tensor& mean, const Tensor& moments, const Tensor& kept,
                        const Tensor& dvelocity, const Tensor& dtarget, const Tensor& dmean,
                        const Tensor& dscalars) {
  check_normalise(velocity, target, variance, mean, moments, kept);
  checks::laid_out_like("gradient", gradient, velocity);
  checks::laid_out_like("dvelocity", dvelocity, velocity);
  checks::dense("dtarget", dtarget, velocity, {velocity.size(1)});
  checks::dense("dmean", dmean, velocity, {velocity.size(1)});
  checks::holds("dscalars", dscalars, velocity, 3);
  const Map<T> in(velocity), from(gradient), to(dvelocity);
  const int64_t width = in.channels, points = in.points();
  const double count = double(points);
  const Frame f = frame<T>(mean, target, variance, curvature, eps, moments);
  const T *nu = data<T>(moments) + 1, root = T(0.5 / std::sqrt(curvature));
  const T *norm_of = data<T>(kept), between = T(f.between), mean_square = T(f.mean_square);
  const T mean_target = T(f.mean_target), target_square = T(f.target_time * f.target_time - 1);
  const T scale = T(f.scale), share = T(1) / (T(1) + between);
  // What the second pass needs of a pixel: d(velocity) = G kg + w (kw + turn/X) + M km + b kb + V.
  std::unique_ptr<T[]> numbers(new T[6 * points]);
  enum { GAIN, SELF, MEAN, TARGET, SPREAD, TIME };
  Sums sums(3 * width + 8);
  for_tiles(in, [&](int64_t chunk, const Tile& tile) {
    Products<T> of;
    of.load(norm_of + points, points, tile);
    of.finish(T(f.mean_time), T(f.target_time), mean_square);
    T w_row[L<T>], g_row[L<T>], gd[L<T>] = {}, gm[L<T>] = {}, gb[L<T>] = {};
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, w_row), *g = read(from, tile, c, g_row);
      const T m = T(f.mean[c]), b = T(f.target[c]);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        gd[j] += g[j] * (w[j] - m);
        gm[j] += g[j] * m;
        gb[j] += g[j] * b;
      }
    }
    T norm[L<T>], live[L<T>], gain[L<T>], extra[L<T>], k[L<T>], q[L<T>], p[L<T>];
    T ddelay[L<T>], dexcess[L<T>], spread[L<T>];
    T part[7][L<T>];
    for (int64_t j = 0; j < L<T>; ++j) {
      live[j] = j < tile.count;
      norm[j] = j < tile.count ? norm_of[tile.point + j] : T(0);
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T half = of.half[j], delay = of.delay[j], excess = T(2) * half;
      const T n = share;
      const Step<T> s = step(half, delay, scale, between);
      // The factor of the tangent: G becomes gain G + extra O.
      const Radial<T> a = asinhc(norm[j]);
      const T with_out = s.k * gd[j] + s.q * gm[j] + s.p * gb[j];
      gain[j] = root * a.value;
      extra[j] = T(2) * root * a.slope * with_out;
      part[6][j] = gain[j] * with_out;
      const T od = s.k * of.apart[j] + s.q * of.along[j] + s.p * of.across[j];
      const T om = s.k * of.along[j] + s.q * mean_square + s.p * mean_target;
      const T ob = s.k * of.across[j] + s.q * mean_target + s.p * target_square;
      const T to_d = gain[j] * gd[j] + extra[j] * od;
      const T dq = gain[j] * gm[j] + extra[j] * om, dp = gain[j] * gb[j] + extra[j] * ob;
      // q = -k (delay + excess) n, p = C + k (excess between - delay) n, n = 1/(1 + between).
      const T dk = to_d - dq * (delay + excess) * n + dp * (excess * between - delay) * n;
      const T delayed = -s.k * n * (dq + dp);
      const T length = asinhc(half).value, angle = T(4) * half * length * length;
      const T dother = dp * s.stretch_slope + dk * s.slow * s.slow_slope;
      T cosh;
      const Radial<T> own = sinhc(angle, cosh);
      const T dangle = dother * scale * scale - dk * s.k * own.slope / own.value;
      // A clamped excess passes nothing on.
      const T open = (half > T(0)) | (of.apart[j] == T(0)) ? live[j] : T(0);
      const T dex = open * (s.k * n * (between * dp - dq) + dangle * s.spread_slope);
      ddelay[j] = live[j] * delayed;
      dexcess[j] = dex;
      spread[j] = open * s.spread_slope;
      k[j] = s.k, q[j] = s.q, p[j] = s.p;
      part[0][j] = live[j] * (T(2) * scale * angle * dother + dk * s.k / scale);
      part[1][j] = ddelay[j];
      part[2][j] = -live[j] * n * s.q * (dq + dp);
      part[3][j] = of.time[j] * dex;
      part[4][j] = of.time[j] * spread[j];
      part[5][j] = of.later[j] * ddelay[j];
    }
    double* sum = sums.chunk(chunk);
    for (int64_t i = 0; i < 7; ++i) {
      T all = 0;
#pragma omp simd reduction(+ : all)
      for (int64_t j = 0; j < L<T>; ++j) all += part[i][j];
      sum[3 * width + i] += all;
    }
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, w_row), *g = read(from, tile, c, g_row);
      const T m = T(f.mean[c]), b = T(f.target[c]);
      T to_mean = 0, to_spread = 0, to_target = 0;
#pragma omp simd reduction(+ : to_mean, to_spread, to_target)
      for (int64_t j = 0; j < L<T>; ++j) {
        const T out = k[j] * (w[j] - m) + q[j] * m + p[j] * b;
        const T full = live[j] * (gain[j] * g[j] + extra[j] * out);
        to_mean += (q[j] - k[j]) * full - dexcess[j] * w[j];
        to_spread += spread[j] * w[j];
        to_target += p[j] * full - ddelay[j] * w[j];
      }
      sum[c] += to_mean;
      sum[width + c] += to_spread;
      sum[2 * width + c] += to_target;
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T slow = k[j] * extra[j];
      const T turn = T(f.target_time) * ddelay[j] + T(f.mean_time) * dexcess[j];
      norm[j] = slow * k[j] + turn / of.time[j];
      gain[j] *= k[j];
      q[j] = slow * (q[j] - k[j]) - dexcess[j];
      p[j] = slow * p[j] - ddelay[j];
      k[j] = T(1) / of.time[j];
    }
    write_numbers(numbers.get() + GAIN * points, tile, gain);
    write_numbers(numbers.get() + SELF * points, tile, norm);
    write_numbers(numbers.get() + MEAN * points, tile, q);
    write_numbers(numbers.get() + TARGET * points, tile, p);
    write_numbers(numbers.get() + SPREAD * points, tile, spread);
    write_numbers(numbers.get() + TIME * points, tile, k);
  });
  const std::vector<double> total = sums.total();
  const double *sum = total.data() + 3 * width, dscale = sum[0], ddelay = sum[1], dbetween = sum[2];
  const double dinner = -0.5 * dscale * f.scale / f.inner, spread = double(data<T>(moments)[0]);
  const double dspread = dinner / curvature, each = batch ? dspread / count : 0;
  const double dmean_time = (dbetween - ddelay) * f.target_time + sum[3] + each * sum[4];
  const double dtarget_time = sum[5] + f.mean_time * dbetween;
  std::vector<double> to_mean(width), rest(width, 0.0);
  double inside = 0;
  for (int64_t c = 0; c < width; ++c) {
    const double m = f.mean[c], b = f.target[c];
    to_mean[c] = total[c] - each * total[width + c] + (ddelay - dbetween) * b +
                 dmean_time * m / f.mean_time;
    data<T>(dtarget)[c] = T(total[2 * width + c] + (ddelay - dbetween) * m +
                            dtarget_time * b / f.target_time);
    inside += to_mean[c] * m;
    data<T>(dmean)[c] = T(to_mean[c]);
  }
  T* scalars = data<T>(dscalars);  // of variance, curvature, spread
  scalars[0] = T(0.5 * dscale * f.scale / double(data<T>(variance)[0]));
  scalars[1] = T(-dinner * spread / (curvature * curvature) - 0.5 * sum[6] / curvature);
  scalars[2] = T(dspread);
  double turned = 0;
  if (batch) {
    const double dnu = -inside / double(*nu);
    turned = dnu * f.mean_time / count;
    for (int64_t c = 0; c < width; ++c)
      rest[c] = (to_mean[c] / double(*nu) - dnu * f.mean[c]) / count;
  }
  for_tiles(in, [&](int64_t, const Tile& tile) {
    T w_row[L<T>], g_row[L<T>], buffer[L<T>], n[6][L<T>];
    for (int64_t i = 0; i < 6; ++i) read_numbers(numbers.get() + i * points, tile, n[i]);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T more = T(each) * n[SPREAD][j];
      n[SELF][j] += (T(f.mean_time) * more + T(turned)) * n[TIME][j];
      n[MEAN][j] -= more;
    }
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, w_row), *g = read(from, tile, c, g_row);
      const T m = T(f.mean[c]), b = T(f.target[c]), v = T(rest[c]);
      T* result = open(to, tile, c, buffer);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j)
        result[j] = n[GAIN][j] * g[j] + n[SELF][j] * w[j] + n[MEAN][j] * m + n[TARGET][j] * b + v;
      close(to, tile, c, buffer);
    }
  });
}

}  // namespace points
