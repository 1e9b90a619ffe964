// Operators on points that lie as rows: between linear layers and in attention, in single passes.

#include <torch/csrc/stable/library.h>

#include "linear.h"
#include "space.h"

using torch::stable::Tensor;

namespace {

// The double or float form of a function, as an operator: the first tensor's type decides.
template <auto single, auto twice>
struct ByType;

template <typename... Rest, void (*single)(const Tensor&, Rest...), void (*twice)(const Tensor&, Rest...)>
struct ByType<single, twice> {
  static void call(Tensor first, std::decay_t<Rest>... rest) {
    (points::is_double(first) ? twice : single)(first, rest...);
  }
};

}  // namespace

#define OPERATORS(define)                                                                         \
  define(lift, "Tensor s, float curvature, Tensor(a!) out")                                       \
  define(lift_backward,                                                                           \
         "Tensor gradient, Tensor out, float curvature, Tensor(a!) ds, Tensor(b!) dcurvature")    \
  define(covector, "Tensor s, Tensor gain, float curvature, Tensor(a!) out")                      \
  define(covector_backward,                                                                       \
         "Tensor gradient, Tensor out, Tensor gain, float curvature, Tensor(a!) ds, "             \
         "Tensor(b!) along, Tensor(c!) dcurvature")                                               \
  define(drop, "Tensor mean, float curvature, Tensor(a!) out")                                    \
  define(drop_backward,                                                                           \
         "Tensor gradient, Tensor mean, float curvature, Tensor(a!) dmean, "                      \
         "Tensor(b!) dcurvature")                                                                 \
  define(attend_points,                                                                           \
         "Tensor query, Tensor key, Tensor value, Tensor log_gain, float scale, "                 \
         "float curvature, Tensor(a!) out")                                                       \
  define(add_time,                                                                                \
         "Tensor s, Tensor time_weight, float curvature, Tensor(a!) heights, Tensor(b!) out")     \
  define(map_points,                                                                              \
         "Tensor s, Tensor weight, Tensor time_weight, Tensor? bias, float curvature, "           \
         "Tensor(a!) out")                                                                        \
  define(add_time_backward,                                                                       \
         "Tensor gradient, Tensor s, Tensor time_weight, Tensor heights, float curvature, "       \
         "Tensor(a!) ds, Tensor(b!) dtime, Tensor(c!) dbias, Tensor(d!) dcurvature")              \
  define(add_time_map, "Tensor box, Tensor time_weight, float curvature, Tensor(a!) out")         \
  define(add_time_map_backward,                                                                   \
         "Tensor gradient, Tensor box, Tensor time_weight, float curvature, Tensor(a!) dbox, "    \
         "Tensor(b!) dtime, Tensor(c!) dbias, Tensor(d!) dcurvature")                             \
  define(plane_numbers,                                                                           \
         "Tensor weight, Tensor offset, float curvature, Tensor(a!) factor, Tensor(b!) stretch, " \
         "Tensor(c!) shift")                                                                      \
  define(row_squares, "Tensor t, float coefficient, Tensor(a!) squares")                          \
  define(row_squares_backward,                                                                    \
         "Tensor dsquares, Tensor t, float coefficient, Tensor(a!) dt")                           \
  define(linear_points,                                                                           \
         "Tensor product, Tensor squares, Tensor factor, Tensor stretch, Tensor shift, "          \
         "float scale, bool tangent, Tensor(a!) norms, Tensor(b!) out")                           \
  define(linear_points_backward,                                                                  \
         "Tensor gradient, Tensor out, Tensor squares, Tensor norms, Tensor factor, "             \
         "Tensor stretch, Tensor shift, float scale, bool tangent, Tensor(a!) dproduct, "         \
         "Tensor(b!) dsquares, Tensor(c!) sums, Tensor(d!) along")                                \
  define(row_tangents, "Tensor s, float curvature, Tensor(a!) squares, Tensor(b!) out")           \
  define(row_tangents_backward,                                                                   \
         "Tensor gradient, Tensor out, Tensor squares, float curvature, Tensor(a!) ds, "          \
         "Tensor(b!) dcurvature")                                                                 \
  define(row_norm,                                                                                \
         "Tensor t, Tensor gain, float share, float eps, Tensor(a!) inverses, Tensor(b!) out")    \
  define(row_norm_backward,                                                                       \
         "Tensor gradient, Tensor out, Tensor gain, Tensor inverses, float share, "               \
         "Tensor(a!) dt, Tensor(b!) dgain, Tensor(c!) along")

STABLE_TORCH_LIBRARY_FRAGMENT(archzoo_poincare, m) {
#define DEFINE(name, arguments) m.def(#name "(" arguments ") -> ()");
  OPERATORS(DEFINE)
}

STABLE_TORCH_LIBRARY_IMPL(archzoo_poincare, CPU, m) {
#define IMPLEMENT(name, arguments) \
  m.impl(#name, TORCH_BOX((&ByType<&points::name<float>, &points::name<double>>::call)));
  OPERATORS(IMPLEMENT)
}
