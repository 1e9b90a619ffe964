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

// What a norm does: between space parts, or from velocities to tangents; by way of the origin, or
// along the geodesic; by the mean distance, or by that of squares.
struct Kind {
  bool space, origin, distance;
};

// What a kind chooses, in numbers: loops with branches would not be vectorised.
template <typename T>
struct Chosen {
  T size;                // of velocities, in points
  T inverse, tangent;    // out = (inverse + tangent asinh(|O|)/|O|) O
  T squares, distances;  // what is averaged: squares rho^2 + distances rho

  Chosen(Kind kind, double curvature)
      : size(kind.space ? T(std::sqrt(curvature)) : T(1)),
        inverse(kind.space ? T(1) / size : T(0)),
        tangent(kind.space ? T(0) : T(0.5 / std::sqrt(curvature))),
        squares(kind.distance ? T(0) : T(1)),
        distances(T(1) - squares) {}
};

// How x = (X - M0, cosh rho - 1, <d, b>) moves a point: q = -k <back, x>, p = cosh(s rho) + k <on, x>.
template <typename T>
struct Moves {
  T back[3], on[3];
};

template <typename T>
IN_LOOP T mixed(const T (&by)[3], T later, T excess, T across) {
  return by[0] * later + by[1] * excess + by[2] * across;
}

// The transform of one point: out = k d + q M + p b, with what its gradient needs.
template <typename T>
struct Step {
  T k, q, p, backward, onward, slow, stretch_slope, slow_slope, spread_slope;
};

template <typename T>
IN_LOOP Step<T> step(T half, T later, T across, T scale, const Moves<T>& moves) {
  const T length = asinhc(half).value, angle = T(4) * half * length * length;
  T cosh;
  const Radial<T> own = sinhc(angle, cosh);
  const Capped<T> other = capped(scale * scale * angle, T(30));
  Step<T> s;
  s.backward = mixed(moves.back, later, T(2) * half, across);
  s.onward = mixed(moves.on, later, T(2) * half, across);
  s.slow = scale / own.value;
  s.k = other.factor * s.slow;
  s.q = -s.k * s.backward;
  s.p = other.cosh + s.k * s.onward;
  s.stretch_slope = other.cosh_slope;
  s.slow_slope = other.factor_slope;
  s.spread_slope = T(2) / own.value;
  return s;
}

// Numbers of one batch, in double: M, b, their times and product, s and what it is made of.
struct Frame {
  std::vector<double> mean, target;
  double mean_time, target_time, mean_square, mean_target, distance, scale, inner;

  template <typename T>
  Moves<T> moves(bool origin) const {
    if (origin) {
      const double h = 1 / (1 + mean_time), r = 1 / (1 + target_time);
      const T rest = T(-h * r * mean_target);
      return {{T(h), T(h), T(0)}, {rest, rest, T(r)}};
    }
    const double between = mean_time * target_time - mean_target, n = 1 / (1 + between);
    return {{T(n * target_time), T(n), T(-n)}, {T(-n * target_time), T(n * between), T(n)}};
  }
};

// Gradients of M0, B0 and <M, b> by those of moves.
struct MovesBackward {
  double mean_time, target_time, mean_target;

  MovesBackward(const Frame& f, bool origin, const double* back, const double* on) {
    if (origin) {
      const double h = 1 / (1 + f.mean_time), r = 1 / (1 + f.target_time), rest = on[0] + on[1];
      mean_time = -h * h * (back[0] + back[1] - r * f.mean_target * rest);
      target_time = -r * r * (on[2] - h * f.mean_target * rest);
      mean_target = -h * r * rest;
      return;
    }
    const double n = 1 / (1 + f.mean_time * f.target_time - f.mean_target);
    const double dbetween =
        -n * n * (f.target_time * (back[0] - on[0]) + back[1] - on[1] - back[2] + on[2]);
    mean_time = f.target_time * dbetween;
    target_time = f.mean_time * dbetween + n * (back[0] - on[0]);
    mean_target = -dbetween;
  }
};

template <typename T>
Frame frame(const Tensor& mean, const Tensor& target, const Tensor& variance, double curvature,
            double eps, const Tensor& moments, Kind kind) {
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
  const double variance_of = double(data<T>(variance)[0]);
  const double spread = double(data<T>(moments)[0]) / curvature;
  f.distance = std::sqrt(spread);
  f.inner = (kind.distance ? f.distance : spread) + eps;
  f.scale = kind.distance ? variance_of / f.inner : std::sqrt(variance_of / f.inner);
  return f;
}

// Of one tile's velocities w and d = w - M: X, |d|^2, <d, M>, <d, b>, and what follows from them.
template <typename T>
struct Products {
  T time[L<T>] = {}, apart[L<T>] = {}, along[L<T>] = {}, across[L<T>] = {};
  T later[L<T>], half[L<T>];

  void take(const Map<T>& in, const Tile& tile, T size, const std::vector<double>& mean,
            const std::vector<double>& target) {
    T buffer[L<T>];
    for (int64_t c = 0; c < in.channels; ++c) {
      const T* w = read(in, tile, c, buffer);
      const T m = T(mean[c]), b = T(target[c]);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        const T v = size * w[j], d = v - m;
        time[j] += v * v;
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
  __attribute__((noinline)) void finish(T other, T square) {
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T difference = (apart[j] + T(2) * along[j]) / (time[j] + other);
      later[j] = difference;
      half[j] = half_excess(apart[j], difference, along[j] + square, time[j], other);
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
               double curvature, double eps, bool batch, Kind kind, const Tensor& mean,
               const Tensor& moments, const Tensor& numbers, const Tensor& out) {
  check_normalise(velocity, target, variance, mean, moments, numbers);
  checks::laid_out_like("out", out, velocity);
  const Map<T> in(velocity), to(out);
  const int64_t width = in.channels;
  const double count = double(in.points());
  T *midpoint = data<T>(mean), *moment = data<T>(moments);
  T* products = data<T>(numbers) + in.points();
  std::unique_ptr<T[]> halves(new T[in.points()]), laters(new T[in.points()]);
  const Chosen<T> chosen(kind, curvature);
  const T size = chosen.size;
  Frame f = frame<T>(mean, target, variance, curvature, eps, moments, kind);
  double nu = 1, share = 0;
  if (batch) {
    Sums sums(width), excesses(1);
    for_tiles(in, [&](int64_t chunk, const Tile& tile) {
      T buffer[L<T>];
      for (int64_t c = 0; c < width; ++c) {
        sums.chunk(chunk)[c] += sum_of(read(in, tile, c, buffer));
      }
    });
    const std::vector<double> centre = sums.total();
    for (int64_t c = 0; c < width; ++c) midpoint[c] = T(double(size) * centre[c] / count);
    // The frame of the mean of the velocities, nu M, from which that of M follows.
    f = frame<T>(mean, target, variance, curvature, eps, moments, kind);
    for_tiles(in, [&](int64_t chunk, const Tile& tile) {
      Products<T> of;
      of.take(in, tile, size, f.mean, f.target);
      of.finish(T(f.mean_time), T(f.mean_square));
      of.store(products, in.points(), tile);
      for (int64_t j = tile.count; j < L<T>; ++j) of.half[j] = 0;
      excesses.chunk(chunk)[0] += 2 * sum_of(of.half);
    });
    const double excess = excesses.total()[0] / count;
    const double more = excess * (2 + excess / (1 + f.mean_square));
    nu = std::sqrt(1 + more), share = more / ((1 + nu) * nu);
    moment[1] = T(nu);
    for (int64_t c = 0; c < width; ++c) midpoint[c] = T(f.mean[c] / nu);
  }
  const double square = f.mean_square, with_target = f.mean_target;
  f = frame<T>(mean, target, variance, curvature, eps, moments, kind);
  Sums spread(1);
  for_tiles(in, [&](int64_t chunk, const Tile& tile) {
    Products<T> of;
    if (batch) {
      of.load(products, in.points(), tile);
      of.shift(T(share), T(1 / nu), T(square), T(with_target));
    } else {
      of.take(in, tile, size, f.mean, f.target);
    }
    of.finish(T(f.mean_time), T(f.mean_square));
    of.store(products, in.points(), tile);
    T angle[L<T>];
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T length = asinhc(of.half[j]).value;
      const T square = T(4) * of.half[j] * length * length;
      angle[j] = chosen.squares * square + chosen.distances * std::sqrt(square);
    }
    for (int64_t j = tile.count; j < L<T>; ++j) angle[j] = 0;
    spread.chunk(chunk)[0] += sum_of(angle);
    write_numbers(halves.get(), tile, of.half);
    write_numbers(laters.get(), tile, of.later);
  });
  if (batch) {
    const double average = spread.total()[0] / count;
    moment[0] = T(kind.distance ? average * average : average);
    f = frame<T>(mean, target, variance, curvature, eps, moments, kind);
  }
  const Moves<T> moves = f.moves<T>(kind.origin);
  const T scale = T(f.scale);
  for_tiles(in, [&](int64_t, const Tile& tile) {
    std::vector<T> kept(width * L<T>);
    T buffer[L<T>], half[L<T>], later[L<T>], across[L<T>], norm[L<T>] = {};
    T k[L<T>], q[L<T>], p[L<T>];
    read_numbers(halves.get(), tile, half);
    read_numbers(laters.get(), tile, later);
    read_numbers(products + 3 * in.points(), tile, across);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const Step<T> s = step(half[j], later[j], across[j], scale, moves);
      k[j] = s.k, q[j] = s.q, p[j] = s.p;
    }
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, buffer), m = T(f.mean[c]), b = T(f.target[c]);
      T* row = kept.data() + c * L<T>;
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        row[j] = k[j] * (size * w[j] - m) + q[j] * m + p[j] * b;
        norm[j] += row[j] * row[j];
      }
    }
    // The length of what is scaled back is of no use, and its square may be no number.
    if (kind.space) std::fill(norm, norm + L<T>, T(0));
    write_numbers(data<T>(numbers), tile, norm);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j)
      k[j] = chosen.inverse + chosen.tangent * asinhc(norm[j]).value;
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
                        Kind kind, const Tensor& mean, const Tensor& moments, const Tensor& kept,
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
  const Frame f = frame<T>(mean, target, variance, curvature, eps, moments, kind);
  const T* nu = data<T>(moments) + 1;
  const T *norm_of = data<T>(kept), mean_square = T(f.mean_square);
  const T mean_target = T(f.mean_target), target_square = T(f.target_time * f.target_time - 1);
  const Chosen<T> chosen(kind, curvature);
  const T scale = T(f.scale), size = chosen.size;
  const Moves<T> moves = f.moves<T>(kind.origin);
  // What the second pass needs of a pixel: d(velocity) = G kg + w (kw + turn/X) + M km + b kb + V.
  std::unique_ptr<T[]> numbers(new T[6 * points]);
  enum { GAIN, SELF, MEAN, TARGET, SPREAD, TIME };
  // What is summed over pixels: gradients of s, of moves, of X M0, of X - M0 and <d, b>.
  enum { SCALE, BACK, ON = BACK + 3, LATE = ON + 3, LATE_SPREAD, OUT, LATER, ACROSS, PARTS };
  Sums sums(3 * width + PARTS);
  for_tiles(in, [&](int64_t chunk, const Tile& tile) {
    Products<T> of;
    of.load(norm_of + points, points, tile);
    of.finish(T(f.mean_time), mean_square);
    T w_row[L<T>], g_row[L<T>], gd[L<T>] = {}, gm[L<T>] = {}, gb[L<T>] = {};
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, w_row), *g = read(from, tile, c, g_row);
      const T m = T(f.mean[c]), b = T(f.target[c]);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        gd[j] += g[j] * (size * w[j] - m);
        gm[j] += g[j] * m;
        gb[j] += g[j] * b;
      }
    }
    T norm[L<T>], live[L<T>], gain[L<T>], extra[L<T>], k[L<T>], q[L<T>], p[L<T>];
    T dlater[L<T>], dacross[L<T>], dexcess[L<T>], spread[L<T>];
    T part[PARTS][L<T>];
    read_numbers(norm_of, tile, norm);
    for (int64_t j = 0; j < L<T>; ++j) live[j] = j < tile.count;
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T half = of.half[j], later = of.later[j], excess = T(2) * half, across = of.across[j];
      const Step<T> s = step(half, later, across, scale, moves);
      // The factor of the output: G becomes gain G + extra O.
      const Radial<T> a = asinhc(norm[j]);
      const T with_out = s.k * gd[j] + s.q * gm[j] + s.p * gb[j];
      gain[j] = chosen.inverse + chosen.tangent * a.value;
      extra[j] = T(2) * chosen.tangent * a.slope * with_out;
      const T od = s.k * of.apart[j] + s.q * of.along[j] + s.p * of.across[j];
      const T om = s.k * of.along[j] + s.q * mean_square + s.p * mean_target;
      const T ob = s.k * of.across[j] + s.q * mean_target + s.p * target_square;
      const T to_d = gain[j] * gd[j] + extra[j] * od;
      const T dq = gain[j] * gm[j] + extra[j] * om, dp = gain[j] * gb[j] + extra[j] * ob;
      const T dk = to_d - dq * s.backward + dp * s.onward, to_back = -s.k * dq, to_on = s.k * dp;
      const T length = asinhc(half).value, angle = T(4) * half * length * length;
      const T dother = dp * s.stretch_slope + dk * s.slow * s.slow_slope;
      T cosh;
      const Radial<T> own = sinhc(angle, cosh);
      const T dangle = dother * scale * scale - dk * s.k * own.slope / own.value;
      // A clamped excess passes nothing on.
      const T open = (half > T(0)) | (of.apart[j] == T(0)) ? live[j] : T(0);
      // d(rho) is d(rho^2)/(2 rho); none at the midpoint.
      const T rho = T(2) * std::sqrt(half) * length;
      const T of_distance = T(0.5) / (half > T(0) ? rho : T(INFINITY));
      dlater[j] = live[j] * (moves.back[0] * to_back + moves.on[0] * to_on);
      dacross[j] = live[j] * (moves.back[2] * to_back + moves.on[2] * to_on);
      dexcess[j] = open * (moves.back[1] * to_back + moves.on[1] * to_on + dangle * s.spread_slope);
      spread[j] = open * s.spread_slope * (chosen.squares + chosen.distances * of_distance);
      k[j] = s.k, q[j] = s.q, p[j] = s.p;
      part[SCALE][j] = live[j] * (T(2) * scale * angle * dother + dk * s.k / scale);
      part[BACK][j] = live[j] * to_back * later;
      part[BACK + 1][j] = live[j] * to_back * excess;
      part[BACK + 2][j] = live[j] * to_back * across;
      part[ON][j] = live[j] * to_on * later;
      part[ON + 1][j] = live[j] * to_on * excess;
      part[ON + 2][j] = live[j] * to_on * across;
      part[LATE][j] = of.time[j] * dexcess[j];
      part[LATE_SPREAD][j] = of.time[j] * spread[j];
      part[OUT][j] = live[j] * gain[j] * with_out;
      part[LATER][j] = dlater[j];
      part[ACROSS][j] = dacross[j];
    }
    double* sum = sums.chunk(chunk);
    for (int64_t i = 0; i < PARTS; ++i) sum[3 * width + i] += sum_of(part[i]);
    T to_mean[L<T>], to_spread[L<T>], to_target[L<T>];
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, w_row), *g = read(from, tile, c, g_row);
      const T m = T(f.mean[c]), b = T(f.target[c]);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        const T v = size * w[j], out = k[j] * (v - m) + q[j] * m + p[j] * b;
        const T full = live[j] * (gain[j] * g[j] + extra[j] * out);
        to_mean[j] = (q[j] - k[j]) * full - dexcess[j] * v;
        to_spread[j] = spread[j] * v;
        to_target[j] = p[j] * full + dacross[j] * v;
      }
      sum[c] += sum_of(to_mean);
      sum[width + c] += sum_of(to_spread);
      sum[2 * width + c] += sum_of(to_target);
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T slow = k[j] * extra[j];
      norm[j] = slow * k[j] + (dlater[j] + T(f.mean_time) * dexcess[j]) / of.time[j];
      gain[j] *= k[j];
      q[j] = slow * (q[j] - k[j]) - dexcess[j];
      p[j] = slow * p[j] + dacross[j];
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
  const double *sum = total.data() + 3 * width, dscale = sum[SCALE];
  const double spread = double(data<T>(moments)[0]), power = kind.distance ? 1 : 0.5;
  const double dinner = -power * dscale * f.scale / f.inner, root_of = std::sqrt(curvature);
  double dspread = dinner / curvature, each = dspread;
  if (kind.distance) {
    each = dinner / root_of;
    dspread = f.distance > 0 ? 0.5 * dspread / f.distance : 0;
  }
  each = batch ? each / count : 0;
  const MovesBackward moved(f, kind.origin, sum + BACK, sum + ON);
  const double dmean_time =
      moved.mean_time - sum[LATER] + sum[LATE] + each * sum[LATE_SPREAD];
  const double both = moved.mean_target - sum[ACROSS];
  std::vector<double> to_mean(width), rest(width, 0.0);
  double inside = 0;
  for (int64_t c = 0; c < width; ++c) {
    const double m = f.mean[c], b = f.target[c];
    to_mean[c] = total[c] - each * total[width + c] + both * b +
                 dmean_time * m / f.mean_time;
    data<T>(dtarget)[c] = T(total[2 * width + c] + both * m +
                            moved.target_time * b / f.target_time);
    inside += to_mean[c] * m;
    data<T>(dmean)[c] = T(to_mean[c]);
  }
  T* scalars = data<T>(dscalars);  // of variance, curvature, spread
  scalars[0] = T(power * dscale * f.scale / double(data<T>(variance)[0]));
  scalars[1] = T(-(dspread * spread + 0.5 * sum[OUT]) / curvature);
  scalars[2] = T(dspread);
  double stretched = 0;
  if (batch) {
    const double dnu = -inside / double(*nu);
    stretched = dnu * f.mean_time / count;
    for (int64_t c = 0; c < width; ++c)
      rest[c] = (to_mean[c] / double(*nu) - dnu * f.mean[c]) / count;
  }
  for_tiles(in, [&](int64_t, const Tile& tile) {
    T w_row[L<T>], g_row[L<T>], buffer[L<T>], n[6][L<T>];
    for (int64_t i = 0; i < 6; ++i) read_numbers(numbers.get() + i * points, tile, n[i]);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T more = T(each) * n[SPREAD][j];
      n[SELF][j] += (T(f.mean_time) * more + T(stretched)) * n[TIME][j];
      n[MEAN][j] = size * (n[MEAN][j] - more);
      n[SELF][j] *= size * size;
      n[GAIN][j] *= size;
      n[TARGET][j] *= size;
    }
    for (int64_t c = 0; c < width; ++c) {
      const T *w = read(in, tile, c, w_row), *g = read(from, tile, c, g_row);
      const T m = T(f.mean[c]), b = T(f.target[c]), v = size * T(rest[c]);
      T* result = open(to, tile, c, buffer);
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j)
        result[j] = n[GAIN][j] * g[j] + n[SELF][j] * w[j] + n[MEAN][j] * m + n[TARGET][j] * b + v;
      close(to, tile, c, buffer);
    }
  });
}

}  // namespace points
