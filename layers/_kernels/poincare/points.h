// What kernels over maps of points share: tiles of pixels, and functions that loops can vectorise.
//
// A map holds points along its channels. Its pixels are vector lanes: a tile of L pixels has one row
// for each channel, and a number per pixel is one array of L.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "../checks.h"

namespace points {

using checks::is_double;
using torch::stable::Tensor;

template <typename T>
constexpr int64_t L = 256 / sizeof(T);
// Chunks are fixed and summed in order: sums have the same bits for any number of threads.
constexpr int64_t CHUNKS = 32;

template <typename T>
T* data(const Tensor& tensor) {
  return tensor.numel() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

// A tensor (B, C, ...), contiguous or channels-last, as images of points; with groups the channels
// of an image are split, and the group of image i is i % groups. Maps that share tiles share their
// layout.
template <typename T>
struct Map {
  T* at;
  int64_t images, channels, pixels, image_stride, channel_stride, pixel_stride;

  explicit Map(const Tensor& x, int64_t groups = 1) : at(data<T>(x)), channels(x.size(1) / groups) {
    const int64_t batch = x.size(0), width = x.size(1);
    const int64_t area = batch * width ? x.numel() / (batch * width) : 1;
    if (groups == 1 && (area == 1 || (width > 1 && x.stride(1) == 1))) {
      images = 1, pixels = batch * area;
      image_stride = 0, channel_stride = 1, pixel_stride = width;
    } else {
      images = batch * groups, pixels = area;
      image_stride = channels * area, channel_stride = area, pixel_stride = 1;
    }
  }

  int64_t points() const { return images * pixels; }
  T* row(int64_t image, int64_t pixel, int64_t c) const {
    return at + image * image_stride + pixel * pixel_stride + c * channel_stride;
  }
};

inline bool has_channels_last(const Tensor& x) {
  int64_t step = x.size(1);
  bool last = step == 1 || x.stride(1) == 1;
  for (int64_t i = x.dim() - 1; i > 0; --i) {
    const int64_t axis = i == 1 ? 0 : i;
    last = last && (x.size(axis) == 1 || x.stride(axis) == step);
    step *= x.size(axis);
  }
  return last;
}

// What Map assumes of the tensor that decides over an operator's layout; its twins must be
// `laid_out_like` it.
inline void check_map(const char* name, const Tensor& x, int64_t groups = 1) {
  checks::leads(name, x);
  if (x.dim() < 2) checks::refuse(name, " has shape ", checks::shape(x), ", expected (B, C, ...)");
  if (groups < 1 || x.size(1) % groups)
    checks::refuse(name, " has ", x.size(1), " channels, which ", groups, " groups do not divide");
  if (x.numel() && !x.is_contiguous() && !(groups == 1 && has_channels_last(x)))
    checks::refuse(name, " must be contiguous", groups == 1 ? " or have its channels last" : "");
}

// How many points the groups of a map have in all.
inline int64_t points_of(const Tensor& x, int64_t groups = 1) {
  int64_t points = x.size(0) * groups;
  for (int64_t axis = 2; axis < x.dim(); ++axis) points *= x.size(axis);
  return points;
}

// L pixels of one image, the last ones missing where the image ends.
struct Tile {
  int64_t image, pixel, count, point;  // point: its place in an array of numbers per pixel
};

template <typename T>
const T* read(const Map<T>& map, const Tile& tile, int64_t c, T* buffer) {
  const T* row = map.row(tile.image, tile.pixel, c);
  if (map.pixel_stride == 1 && tile.count == L<T>) return row;
  for (int64_t j = 0; j < tile.count; ++j) buffer[j] = row[j * map.pixel_stride];
  for (int64_t j = tile.count; j < L<T>; ++j) buffer[j] = 0;
  return buffer;
}

template <typename T>
T* open(const Map<T>& map, const Tile& tile, int64_t c, T* buffer) {
  return map.pixel_stride == 1 && tile.count == L<T> ? map.row(tile.image, tile.pixel, c) : buffer;
}

template <typename T>
void close(const Map<T>& map, const Tile& tile, int64_t c, const T* buffer) {
  if (map.pixel_stride == 1 && tile.count == L<T>) return;
  T* row = map.row(tile.image, tile.pixel, c);
  for (int64_t j = 0; j < tile.count; ++j) row[j * map.pixel_stride] = buffer[j];
}

template <typename T>
void read_numbers(const T* numbers, const Tile& tile, T* lanes) {
  std::copy_n(numbers + tile.point, tile.count, lanes);
  std::fill(lanes + tile.count, lanes + L<T>, T(0));
}

template <typename T>
void write_numbers(T* numbers, const Tile& tile, const T* lanes) {
  std::copy_n(lanes, tile.count, numbers + tile.point);
}

// The sum of a tile's lanes by halves, where a loop's own reduction adds one lane after the other.
template <typename T>
inline __attribute__((always_inline)) T sum_of(const T* lanes) {
  typedef T Whole __attribute__((vector_size(64)));
  typedef T Half __attribute__((vector_size(32)));
  typedef T Quarter __attribute__((vector_size(16)));
  static_assert(sizeof(T) * L<T> == 4 * sizeof(Whole));
  Whole rows[4];
  std::memcpy(rows, lanes, sizeof(rows));
  const Whole whole = (rows[0] + rows[1]) + (rows[2] + rows[3]);
  Half halves[2];
  std::memcpy(halves, &whole, sizeof(whole));
  const Half half = halves[0] + halves[1];
  Quarter quarters[2];
  std::memcpy(quarters, &half, sizeof(half));
  const Quarter quarter = quarters[0] + quarters[1];
  if constexpr (sizeof(T) == 4) return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
  else return quarter[0] + quarter[1];
}

// body(chunk, tile) for all tiles of a map; tiles of one chunk run in order on one thread.
template <typename T, typename Body>
void for_tiles(const Map<T>& map, const Body& body) {
  const int64_t each = (map.pixels + L<T> - 1) / L<T>, total = map.images * each;
  torch::stable::parallel_for(0, CHUNKS, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk)
      for (int64_t t = chunk * total / CHUNKS; t < (chunk + 1) * total / CHUNKS; ++t) {
        const int64_t image = t / each, pixel = t % each * L<T>;
        body(chunk, Tile{image, pixel, std::min(L<T>, map.pixels - pixel),
                         image * map.pixels + pixel});
      }
  });
}

// Sums over pixels, one row of `width` numbers for each chunk.
struct Sums {
  int64_t width, chunks;
  std::vector<double> partial;

  explicit Sums(int64_t width, int64_t chunks = CHUNKS)
      : width(width), chunks(chunks), partial(chunks * width, 0.0) {}
  double* chunk(int64_t index) { return partial.data() + index * width; }
  std::vector<double> total() const {
    std::vector<double> sum(width, 0.0);
    for (int64_t k = 0; k < chunks; ++k)
      for (int64_t c = 0; c < width; ++c) sum[c] += partial[k * width + c];
    return sum;
  }
};

// What a vectorised loop calls must be part of it.
#define IN_LOOP inline __attribute__((always_inline))

template <typename T>
using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
template <typename T>
using Signed = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <typename T>
constexpr bool SINGLE = sizeof(T) == 4;
template <typename T>
constexpr int MANTISSA = SINGLE<T> ? 23 : 52;

template <typename T>
IN_LOOP Bits<T> bits(T x) {
  Bits<T> b;
  std::memcpy(&b, &x, sizeof(T));
  return b;
}

template <typename T>
IN_LOOP T from_bits(Bits<T> b) {
  T x;
  std::memcpy(&x, &b, sizeof(T));
  return x;
}

// c_0 + c_1 x + ...
template <typename T, size_t N, size_t I = 0>
IN_LOOP T polynomial(const double (&c)[N], T x) {
  if constexpr (I + 1 == N) return T(c[I]);
  else return T(c[I]) + x * polynomial<T, N, I + 1>(c, x);
}

// e^x - 1 for x in [-80, 88] (float); some units in the last place.
template <typename T>
IN_LOOP T expm1(T x) {
  constexpr T MAGIC = SINGLE<T> ? T(12582912.0) : T(6755399441055744.0);  // rounds to integers
  constexpr T HIGH = SINGLE<T> ? T(0.693359375) : T(0.693147180369123816490);
  constexpr T LOW = SINGLE<T> ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  constexpr Bits<T> BIAS = SINGLE<T> ? 127 : 1023;
  static constexpr double SHORT[] = {1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040};
  static constexpr double LONG[] = {1. / 2,         1. / 6,          1. / 24,     1. / 120,
                                    1. / 720,       1. / 5040,       1. / 40320,  1. / 362880,
                                    1. / 3628800,   1. / 39916800,   1. / 479001600,
                                    1. / 6227020800};
  const T shifted = x * T(1.44269504088896340736) + MAGIC, n = shifted - MAGIC;
  const T r = (x - n * HIGH) - n * LOW;
  T tail;
  if constexpr (SINGLE<T>) tail = polynomial(SHORT, r); else tail = polynomial(LONG, r);
  const T power = from_bits<T>((bits(shifted) + BIAS) << MANTISSA<T>);
  return power * (r + r * r * tail) + (power - T(1));
}

// asinh(v) = log z, z = v + cosh, for v >= 0, as 2 atanh of a fraction plus n log 2. The fraction
// is (z - 2^n)/(z + 2^n), and v/(1 + cosh) for n = 0, which keeps all digits at the origin.
template <typename T>
struct Logarithm {
  T cosh, numerator, denominator, n;
};

// v ends at 1e18, whose square is a float. Ends are compared so that NaN passes on.
template <typename T>
IN_LOOP Logarithm<T> logarithm(T v) {
  constexpr Bits<T> BIAS = SINGLE<T> ? 127 : 1023;
  v = T(1e18) < v ? T(1e18) : v;
  const T cosh = std::sqrt(T(1) + v * v), z = v + cosh, lost = v - (z - cosh);
  const Bits<T> half = bits(T(0.70710678118654752440));
  const Signed<T> e = static_cast<Signed<T>>(bits(z) - half) >> MANTISSA<T>;
  const T power = from_bits<T>((BIAS + static_cast<Bits<T>>(e)) << MANTISSA<T>);
  const bool near = e == 0;
  return {cosh, near ? v : (z - power) + lost, near ? T(1) + cosh : z + power,
          static_cast<T>(e)};
}

// n log 2 + 2 atanh(s); some units in the last place.
template <typename T>
IN_LOOP T logarithm_of(T s, T n) {
  constexpr T HIGH = SINGLE<T> ? T(0.693359375) : T(0.693147180369123816490);
  constexpr T LOW = SINGLE<T> ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);
  static constexpr double SHORT[] = {1. / 3, 1. / 5, 1. / 7, 1. / 9};
  static constexpr double LONG[] = {1. / 3,  1. / 5,  1. / 7,  1. / 9,  1. / 11,
                                    1. / 13, 1. / 15, 1. / 17, 1. / 19, 1. / 21};
  const T square = s * s;
  T tail;
  if constexpr (SINGLE<T>) tail = polynomial(SHORT, square); else tail = polynomial(LONG, square);
  return n * HIGH + (T(2) * s + (T(2) * s * square * tail + n * LOW));
}

// asinh(v) and cosh of it, for v >= 0. Divisions cost more than all else here.
template <typename T>
IN_LOOP T asinh(T v, T& cosh) {
  const Logarithm<T> z = logarithm(v);
  cosh = z.cosh;
  return logarithm_of(z.numerator / z.denominator, z.n);
}

// asinh(v) and 1/cosh of it by one division.
template <typename T>
IN_LOOP T asinh_and_secant(T v, T& secant) {
  const Logarithm<T> z = logarithm(v);
  const T inverse = T(1) / (z.denominator * z.cosh);
  secant = z.denominator * inverse;
  return logarithm_of(z.numerator * (z.cosh * inverse), z.n);
}

// sinh(x) for x >= 0.
template <typename T>
IN_LOOP T sinh(T x) {
  const T m = expm1(x);
  return T(0.5) * (m + m / (T(1) + m));
}

// Radial functions of u = r^2 and their derivatives by u: series near the origin, closed form else.
template <typename T>
struct Radial {
  T value, slope;
};

constexpr double SERIES_BELOW = 0.01;

// sinh(r)/r, and cosh(r) = value at twice the slope: d cosh(r)/du = sinh(r)/(2 r).
template <typename T>
IN_LOOP Radial<T> sinhc(T u, T& cosh) {
  static constexpr double VALUE[] = {1, 1. / 6, 1. / 120, 1. / 5040, 1. / 362880, 1. / 39916800};
  static constexpr double SLOPE[] = {1. / 6, 2. / 120, 3. / 5040, 4. / 362880, 5. / 39916800};
  const bool near = u < T(SERIES_BELOW);
  const T wide = near ? T(1) : u, r = std::sqrt(wide), m = expm1(r), inverse = T(1) / (T(1) + m);
  const T far = T(0.5) * (m + m * inverse) / r, far_cosh = T(0.5) * (T(1) + m + inverse);
  const T series = polynomial(VALUE, u);
  cosh = near ? std::sqrt(T(1) + u * series * series) : far_cosh;
  return {near ? series : far, near ? polynomial(SLOPE, u) : T(0.5) * (far_cosh - far) / wide};
}

// asinh(r)/r.
template <typename T>
IN_LOOP Radial<T> asinhc(T u) {
  static constexpr double VALUE[] = {1,           -1. / 6,       3. / 40,      -15. / 336,
                                     105. / 3456, -945. / 42240, 10395. / 599040};
  static constexpr double SLOPE[] = {-1. / 6,      6. / 40,        -45. / 336,
                                     420. / 3456,  -4725. / 42240, 62370. / 599040, -7 * 143. / 10240};
  const bool near = u < T(SERIES_BELOW);
  T cosh;
  const T wide = near ? T(1) : u, r = std::sqrt(wide), far = asinh(r, cosh) / r;
  return {near ? polynomial(VALUE, u) : far,
          near ? polynomial(SLOPE, u)
               : T(0.5) * (T(1) / cosh - far) / wide};
}

// sinh(r)/r of a radius held at `largest`, times what a longer vector shrinks by, and its cosh.
template <typename T>
struct Capped {
  T factor, factor_slope, cosh, cosh_slope;
};

template <typename T>
IN_LOOP Capped<T> capped(T square, T largest) {
  const bool outside = square > largest * largest;
  T cosh;
  const Radial<T> s = sinhc(outside ? largest * largest : square, cosh);
  const T shrink = largest / std::sqrt(outside ? square : T(1));
  return {outside ? shrink * s.value : s.value,
          outside ? T(-0.5) * shrink * s.value / square : s.slope, cosh,
          outside ? T(0) : T(0.5) * s.value};
}

}  // namespace points
