// Space parts: lift, covector, drop, and the time column of linear layers and convolutions; equations
// in layers/hyperbolic/maths/space_parts.py and layers/hyperbolic/_fast/fused_space.py.

#pragma once

#include <limits>
#include <optional>

#include "rows.h"

namespace points {

// h(s) for |s|^2.
template <typename T>
IN_LOOP T height(T square, T c) {
  return square / (T(1) + std::sqrt(T(1) + c * square));
}

// out = [s, h].
template <typename T>
void lift(const Tensor& s, double curvature, const Tensor& out) {
  lead_rows("s", s);
  check_rows("out", out, s, s.size(-1) + 1);
  const Rows<T> in(s), to(out);
  for_rows(in.count, in.width, [&](int64_t i) {
    const T* x = in.row(i);
    T *y = to.row(i), square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < in.width; ++j) y[j] = x[j], square += x[j] * x[j];
    y[in.width] = height(square, T(curvature));
  });
}

template <typename T>
void lift_backward(const Tensor& gradient, const Tensor& out, double curvature, const Tensor& ds,
                   const Tensor& dcurvature) {
  lead_rows("out", out);
  check_rows("gradient", gradient, out, out.size(-1));
  check_rows("ds", ds, out, out.size(-1) - 1);
  checks::holds("dcurvature", dcurvature, out, 1);
  const Rows<T> from(gradient), in(out), to(ds);
  Sums sums(1, chunks_of(to.count));
  for_spans(to.count, [&](int64_t chunk, int64_t i, int64_t last) {
    for (; i < last; ++i) {
      const T *g = from.row(i), *x = in.row(i), h = x[to.width];
      T* y = to.row(i);
      const T turn = g[to.width] / (T(1) + T(curvature) * h);
#pragma omp simd
      for (int64_t j = 0; j < to.width; ++j) y[j] = g[j] + turn * x[j];
      sums.chunk(chunk)[0] -= 0.5 * turn * h * h;
    }
  });
  data<T>(dcurvature)[0] = T(sums.total()[0]);
}

// out = gain [s, -X].
template <typename T>
void covector(const Tensor& s, const Tensor& gain, double curvature, const Tensor& out) {
  lead_rows("s", s);
  check_rows("gain", gain, s, 1);
  check_rows("out", out, s, s.size(-1) + 1);
  const Rows<T> in(s), gains(gain), to(out);
  for_rows(in.count, in.width, [&](int64_t i) {
    const T *x = in.row(i), factor = *gains.row(i);
    T *y = to.row(i), square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < in.width; ++j) y[j] = factor * x[j], square += x[j] * x[j];
    y[in.width] = -factor * std::sqrt(T(1) + T(curvature) * square);
  });
}

// Also along = <gradient, out> of each point, from which the gradient of the gain follows.
template <typename T>
void covector_backward(const Tensor& gradient, const Tensor& out, const Tensor& gain,
                       double curvature, const Tensor& ds, const Tensor& along,
                       const Tensor& dcurvature) {
  lead_rows("out", out);
  check_rows("gradient", gradient, out, out.size(-1));
  check_rows("gain", gain, out, 1);
  check_rows("ds", ds, out, out.size(-1) - 1);
  const Rows<T> from(gradient), in(out), gains(gain), to(ds);
  checks::holds("along", along, out, in.count);
  checks::holds("dcurvature", dcurvature, out, 1);
  Sums sums(1, chunks_of(to.count));
  for_spans(to.count, [&](int64_t chunk, int64_t i, int64_t last) {
    for (; i < last; ++i) {
      const T *g = from.row(i), *x = in.row(i), factor = *gains.row(i);
      T *y = to.row(i), all = 0, square = 0;
      // The quotient of two channels is that of s and -X, whatever the gain.
      const T quotient = g[to.width] / x[to.width], turn = factor * T(curvature) * quotient;
#pragma omp simd reduction(+ : all, square)
      for (int64_t j = 0; j < to.width; ++j) {
        y[j] = factor * g[j] + turn * x[j];
        all += g[j] * x[j];
        square += x[j] * x[j];
      }
      data<T>(along)[i] = all + g[to.width] * x[to.width];
      // |gain s|^2/(-gain X) is -gain |s|^2/X.
      sums.chunk(chunk)[0] += 0.5 * quotient * square;
    }
  });
  data<T>(dcurvature)[0] = T(sums.total()[0]);
}

// f of a mean [S, n] of lifts, and |S|^2.
template <typename T>
IN_LOOP T spread(const T* mean, int64_t width, T c, T& square) {
  square = dot(mean, mean, width);
  const T n = mean[width];
  return T(1) + c * (n * (T(2) + c * n) - square);
}

// out = S/sqrt(max(f, 1)).
template <typename T>
void drop(const Tensor& mean, double curvature, const Tensor& out) {
  lead_rows("mean", mean);
  check_rows("out", out, mean, mean.size(-1) - 1);
  const Rows<T> in(mean), to(out);
  for_rows(to.count, to.width, [&](int64_t i) {
    const T* x = in.row(i);
    T *y = to.row(i), square;
    const T f = spread(x, to.width, T(curvature), square);
    const T scale = T(1) / std::sqrt(f < T(1) ? T(1) : f);
#pragma omp simd
    for (int64_t j = 0; j < to.width; ++j) y[j] = scale * x[j];
  });
}

template <typename T>
void drop_backward(const Tensor& gradient, const Tensor& mean, double curvature,
                   const Tensor& dmean, const Tensor& dcurvature) {
  lead_rows("mean", mean);
  check_rows("gradient", gradient, mean, mean.size(-1) - 1);
  check_rows("dmean", dmean, mean, mean.size(-1));
  checks::holds("dcurvature", dcurvature, mean, 1);
  const Rows<T> from(gradient), in(mean), to(dmean);
  const int64_t width = from.width;
  const T c = T(curvature);
  Sums sums(1, chunks_of(from.count));
  for_spans(from.count, [&](int64_t chunk, int64_t i, int64_t last) {
    for (; i < last; ++i) {
      const T *g = from.row(i), *x = in.row(i), n = x[width], late = T(1) + c * n;
      T *y = to.row(i), square;
      const T f = spread(x, width, c, square), scale = T(1) / std::sqrt(f < T(1) ? T(1) : f);
      const T along = f > T(1) ? dot(g, x, width) * scale * scale * scale : T(0);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) y[j] = scale * g[j] + c * along * x[j];
      y[width] = -c * along * late;
      sums.chunk(chunk)[0] -= 0.5 * along * (T(2) * n * late - square);
    }
  });
  data<T>(dcurvature)[0] = T(sums.total()[0]);
}

// Attention of one query of each head to lifted keys and values, the drop included; several heads of
// queries may share one of keys and values.
template <typename T>
void attend_points(const Tensor& query, const Tensor& key, const Tensor& value,
                   const Tensor& log_gain, double scale, double curvature, const Tensor& out) {
  lead_rows("query", query);
  lead_rows("key", key);
  const int64_t width = query.size(-1);
  if (query.dim() != 4 || query.size(2) != 1)
    checks::refuse("query has shape ", checks::shape(query), ", expected (B, H, 1, D)");
  if (key.dim() != 4 || key.size(0) != query.size(0) || key.size(3) != width + 1 || !key.size(2) ||
      !key.size(1) || query.size(1) % key.size(1))
    checks::refuse("key has shape ", checks::shape(key), ", expected lifts for heads of queries of ",
                   "shape ", checks::shape(query));
  check_rows("value", value, key, width + 1);
  check_rows("out", out, query, width);
  checks::matches("key", key, query);
  const int64_t heads = query.size(1), tokens = key.size(2), share = heads / key.size(1);
  checks::dense("log_gain", log_gain, query, {heads});
  const Rows<T> queries(query), keys(key), values(value), to(out);
  const T c = T(curvature);
  for_rows(queries.count, 2 * tokens * width, [&](int64_t i) {
    const T* q = queries.row(i);
    const int64_t first = i / share * tokens;
    const T time = std::sqrt(T(1) + c * dot(q, q, width));
    const T steep = T(scale) * std::exp(data<T>(log_gain)[i % heads]);
    std::vector<T> score(tokens), mean(width + 1, T(0));
    T most = -std::numeric_limits<T>::infinity(), total = 0;
    for (int64_t k = 0; k < tokens; ++k) {
      const T* x = keys.row(first + k);
      score[k] = steep * (dot(q, x, width) - time * x[width]);
      most = most < score[k] ? score[k] : most;
    }
    T* weights = score.data();
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < tokens; ++k) {
      const T lower = weights[k] - most;
      weights[k] = T(1) + expm1(lower < T(-80) ? T(-80) : lower);
      total += weights[k];
    }
    for (int64_t k = 0; k < tokens; ++k)
      add(mean.data(), weights[k] / total, values.row(first + k), width + 1);
    T square;
    const T f = spread(mean.data(), width, c, square);
    const T by = T(1) / std::sqrt(f < T(1) ? T(1) : f);
    T* y = to.row(i);
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) y[j] = by * mean[j];
  });
}

// out += sqrt(c) h w0, h of each point kept.
template <typename T>
void add_time(const Tensor& s, const Tensor& time_weight, double curvature, const Tensor& heights,
              const Tensor& out) {
  lead_rows("s", s);
  checks::dense("time_weight", time_weight, s, {time_weight.numel()});
  checks::holds("heights", heights, s, s.size(0));
  checks::dense("out", out, s, {s.size(0), time_weight.numel()});
  const Rows<T> in(s), to(out);
  const T *w = data<T>(time_weight), root = T(std::sqrt(curvature));
  T* numbers = data<T>(heights);
  for_rows(in.count, in.width + to.width, [&](int64_t i) {
    const T* x = in.row(i);
    const T h = height(dot(x, x, in.width), T(curvature));
    numbers[i] = h;
    add(to.row(i), root * h, w, to.width);
  });
}

// out = W s + b + sqrt(c) h w0 for few points: one call where a product and its sums are many.
template <typename T>
void map_points(const Tensor& s, const Tensor& weight, const Tensor& time_weight,
                const std::optional<Tensor>& bias, double curvature, const Tensor& out) {
  lead_rows("s", s);
  const int64_t outputs = time_weight.numel();
  check_rows("out", out, s, outputs);
  checks::dense("weight", weight, s, {outputs, s.size(-1)});
  checks::dense("time_weight", time_weight, s, {outputs});
  if (bias) checks::dense("bias", *bias, s, {outputs});
  const Rows<T> in(s), to(out);
  const T *rows = data<T>(weight), *w = data<T>(time_weight), *b = bias ? data<T>(*bias) : nullptr;
  const T root = T(std::sqrt(curvature));
  for (int64_t i = 0; i < in.count; ++i) {
    const T* x = in.row(i);
    T* y = to.row(i);
    const T e = root * height(dot(x, x, in.width), T(curvature));
    for_rows(outputs, in.width, [&](int64_t k) {
      y[k] = dot(rows + k * in.width, x, in.width) + e * w[k] + (b ? b[k] : T(0));
    });
  }
}

// ds += <G, w0> sqrt(c)/X s, and the sums of e G, of G and of <G, w0> h/(2 sqrt(c) X).
template <typename T>
void add_time_backward(const Tensor& gradient, const Tensor& s, const Tensor& time_weight,
                       const Tensor& heights, double curvature, const Tensor& ds,
                       const Tensor& dtime, const Tensor& dbias, const Tensor& dcurvature) {
  lead_rows("s", s);
  const int64_t outputs = time_weight.numel();
  checks::dense("gradient", gradient, s, {s.size(0), outputs});
  const Tensor* numbers[] = {&time_weight, &dtime, &dbias};
  const char* names[] = {"time_weight", "dtime", "dbias"};
  for (int64_t k = 0; k < 3; ++k) checks::dense(names[k], *numbers[k], s, {outputs});
  checks::holds("heights", heights, s, s.size(0));
  checks::dense("ds", ds, s, {s.size(0), s.size(-1)});
  checks::holds("dcurvature", dcurvature, s, 1);
  const Rows<T> from(gradient), in(s), to(ds);
  const T *w = data<T>(time_weight), *h = data<T>(heights);
  const T root = T(std::sqrt(curvature));
  Sums sums(2 * outputs + 1, chunks_of(in.count));
  for_spans(in.count, [&](int64_t chunk, int64_t i, int64_t last) {
    std::vector<T> part(2 * outputs, T(0));
    T *with_height = part.data(), *plain = with_height + outputs;
    double* sum = sums.chunk(chunk);
    for (; i < last; ++i) {
      const T *g = from.row(i), high = h[i];
      T along = 0;
#pragma omp simd reduction(+ : along)
      for (int64_t k = 0; k < outputs; ++k) {
        along += g[k] * w[k];
        with_height[k] += high * g[k];
        plain[k] += g[k];
      }
      const T turn = along / (T(1) + T(curvature) * high);
      add(to.row(i), root * turn, in.row(i), in.width);
      sum[2 * outputs] += double(turn) * high;
    }
    collect(sum, part.data(), 2 * outputs);
  });
  const std::vector<double> total = sums.total();
  for (int64_t k = 0; k < outputs; ++k) {
    data<T>(dtime)[k] = T(root * total[k]);
    data<T>(dbias)[k] = T(total[outputs + k]);
  }
  data<T>(dcurvature)[0] = T(total[2 * outputs] / (2 * root));
}

// out += sqrt(c) box/(1 + X) w0 on the channels of a map, X^2 = 1 + c box of each pixel.
template <typename T>
void add_time_map(const Tensor& box, const Tensor& time_weight, double curvature,
                  const Tensor& out) {
  check_map("out", out);
  checks::holds("box", box, out, points_of(out));
  checks::dense("time_weight", time_weight, out, {out.size(1)});
  const Map<T> to(out);
  const T *w = data<T>(time_weight), *squares = data<T>(box);
  const T root = T(std::sqrt(curvature));
  for_tiles(to, [&](int64_t, const Tile& tile) {
    T buffer[L<T>], e[L<T>];
    read_numbers(squares, tile, e);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) e[j] = root * height(e[j], T(curvature));
    for (int64_t c = 0; c < to.channels; ++c) {
      T* row = const_cast<T*>(read(to, tile, c, buffer));
      add(row, w[c], e, L<T>);
      close(to, tile, c, buffer);
    }
  });
}

// With t = <G, w0>: dbox = sqrt(c) t/(2X), and the sums of e G, of G and of t box/(2 sqrt(c) X (1 + X)).
template <typename T>
void add_time_map_backward(const Tensor& gradient, const Tensor& box, const Tensor& time_weight,
                           double curvature, const Tensor& dbox, const Tensor& dtime,
                           const Tensor& dbias, const Tensor& dcurvature) {
  check_map("gradient", gradient);
  checks::holds("box", box, gradient, points_of(gradient));
  checks::holds("dbox", dbox, gradient, box.numel());
  const Tensor* numbers[] = {&time_weight, &dtime, &dbias};
  const char* names[] = {"time_weight", "dtime", "dbias"};
  for (int64_t k = 0; k < 3; ++k) checks::dense(names[k], *numbers[k], gradient, {gradient.size(1)});
  checks::holds("dcurvature", dcurvature, gradient, 1);
  const Map<T> from(gradient);
  const T *w = data<T>(time_weight), *squares = data<T>(box);
  const T root = T(std::sqrt(curvature));
  const int64_t width = from.channels;
  Sums sums(2 * width + 1);
  for_tiles(from, [&](int64_t chunk, const Tile& tile) {
    T buffer[L<T>], square[L<T>], inverse[L<T>], excess[L<T>], along[L<T>] = {};
    read_numbers(squares, tile, square);
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      const T time = std::sqrt(T(1) + T(curvature) * square[j]);
      inverse[j] = T(1) / time;
      excess[j] = square[j] / (T(1) + time);
    }
    double* sum = sums.chunk(chunk);
    T part[L<T>];
    for (int64_t c = 0; c < width; ++c) {
      const T *g = read(from, tile, c, buffer), factor = w[c];
#pragma omp simd
      for (int64_t j = 0; j < L<T>; ++j) {
        along[j] += factor * g[j];
        part[j] = excess[j] * g[j];
      }
      sum[c] += sum_of(part);
      sum[width + c] += sum_of(g);
    }
#pragma omp simd
    for (int64_t j = 0; j < L<T>; ++j) {
      along[j] *= inverse[j];
      part[j] = along[j] * excess[j];
      along[j] *= T(0.5) * root;
    }
    sum[2 * width] += sum_of(part);
    write_numbers(data<T>(dbox), tile, along);
  });
  const std::vector<double> total = sums.total();
  for (int64_t c = 0; c < width; ++c) {
    data<T>(dtime)[c] = T(root * total[c]);
    data<T>(dbias)[c] = T(total[width + c]);
  }
  data<T>(dcurvature)[0] = T(total[2 * width] / (2 * root));
}

}  // namespace points
