// The layers of the ball in single passes over maps of points.
//
// Everything but a convolution's own product is a few numbers per pixel and one pass that applies
// them to the channels. A tile of pixels with all its channels stays in the nearest cache while its
// numbers are found, so that a pass reads each map from memory once.

#include <torch/csrc/stable/library.h>

#include "midpoint.h"
#include "mobius.h"
#include "planes.h"
#include "weights.h"

using torch::stable::Tensor;

namespace {

// The double or float form of a function, by the type of a tensor.
#define BY_TYPE(tensor, function) (points::is_double(tensor) ? points::function<double> : points::function<float>)

void patch_squares(Tensor t, int64_t groups, std::vector<int64_t> place, double coefficient,
                   Tensor square) {
  BY_TYPE(t, patch_squares)(t, groups, place, coefficient, square);
}

void patch_squares_backward(Tensor dsquare, Tensor t, int64_t groups, std::vector<int64_t> place,
                            double coefficient, Tensor dt) {
  BY_TYPE(t, patch_squares_backward)(dsquare, t, groups, place, coefficient, dt);
}

void planes(Tensor product, Tensor square, Tensor stretch, Tensor shift, int64_t groups, Tensor u,
            Tensor velocity) {
  BY_TYPE(product, planes)(product, square, stretch, shift, groups, u, velocity);
}

void planes_backward(Tensor gradient, Tensor u, Tensor velocity, Tensor square, Tensor stretch,
                     Tensor shift, int64_t groups, Tensor dproduct, Tensor dsquare,
                     Tensor dstretch, Tensor dshift) {
  BY_TYPE(u, planes_backward)(gradient, u, velocity, square, stretch, shift, groups, dproduct,
                              dsquare, dstretch, dshift);
}

void tangents(Tensor velocity, double scale, int64_t groups, Tensor out) {
  BY_TYPE(velocity, tangents)(velocity, scale, groups, out);
}

void tangents_backward(Tensor gradient, Tensor velocity, double scale, int64_t groups,
                       Tensor dvelocity, Tensor along) {
  BY_TYPE(velocity, tangents_backward)(gradient, velocity, scale, groups, dvelocity, along);
}

void normalise(Tensor velocity, Tensor target, Tensor variance, double curvature, double eps,
               bool batch, bool space, bool origin, bool distance, Tensor mean, Tensor moments,
               Tensor numbers, Tensor out) {
  BY_TYPE(velocity, normalise)(velocity, target, variance, curvature, eps, batch,
                               points::Kind{space, origin, distance}, mean, moments, numbers, out);
}

void normalise_backward(Tensor gradient, Tensor velocity, Tensor target, Tensor variance,
                        double curvature, double eps, bool batch, bool space, bool origin,
                        bool distance, Tensor mean, Tensor moments, Tensor numbers,
                        Tensor dvelocity, Tensor dtarget, Tensor dmean, Tensor dscalars) {
  BY_TYPE(velocity, normalise_backward)(gradient, velocity, target, variance, curvature, eps,
                                        batch, points::Kind{space, origin, distance}, mean,
                                        moments, numbers, dvelocity, dtarget, dmean, dscalars);
}

void mobius(Tensor left, Tensor right, double curvature, double largest, Tensor norms,
            Tensor out) {
  BY_TYPE(left, mobius)(left, right, curvature, largest, norms, out);
}

void mobius_backward(Tensor gradient, Tensor left, Tensor right, double curvature, double largest,
                     Tensor norms, Tensor dleft, Tensor dright, Tensor dcurvature) {
  BY_TYPE(left, mobius_backward)(gradient, left, right, curvature, largest, norms, dleft, dright,
                                 dcurvature);
}

void hyperplanes(Tensor weight, Tensor offset, double curvature, double gain, Tensor direction,
                 Tensor stretch, Tensor shift) {
  BY_TYPE(weight, hyperplanes)(weight, offset, curvature, gain, direction, stretch, shift);
}

void hyperplanes_backward(Tensor ddirection, Tensor dstretch, Tensor dshift, Tensor weight,
                          Tensor offset, double curvature, double gain, Tensor dweight,
                          Tensor doffset, Tensor dcurvature) {
  BY_TYPE(weight, hyperplanes_backward)(ddirection, dstretch, dshift, weight, offset, curvature,
                                        gain, dweight, doffset, dcurvature);
}

void velocity(Tensor t, double curvature, Tensor out) {
  BY_TYPE(t, velocity)(t, curvature, out);
}

void velocity_backward(Tensor gradient, Tensor t, double curvature, Tensor dt, Tensor dcurvature) {
  BY_TYPE(t, velocity_backward)(gradient, t, curvature, dt, dcurvature);
}

void move_midpoint(Tensor now, Tensor spread, double curvature, double weight, Tensor midpoint,
                   Tensor variance) {
  BY_TYPE(now, move_midpoint)(now, spread, curvature, weight, midpoint, variance);
}

}  // namespace

STABLE_TORCH_LIBRARY(archzoo_poincare, m) {
  m.def(
      "patch_squares(Tensor t, int groups, int[] place, float coefficient, Tensor(a!) square) "
      "-> ()");
  m.def(
      "patch_squares_backward(Tensor dsquare, Tensor t, int groups, int[] place, "
      "float coefficient, Tensor(a!) dt) -> ()");
  m.def(
      "planes(Tensor product, Tensor square, Tensor stretch, Tensor shift, int groups, "
      "Tensor(a!) u, Tensor(b!) velocity) -> ()");
  m.def(
      "planes_backward(Tensor gradient, Tensor u, Tensor velocity, Tensor square, Tensor stretch, "
      "Tensor shift, int groups, Tensor(a!) dproduct, Tensor(b!) dsquare, Tensor(c!) dstretch, "
      "Tensor(d!) dshift) -> ()");
  m.def("tangents(Tensor velocity, float scale, int groups, Tensor(a!) out) -> ()");
  m.def(
      "tangents_backward(Tensor gradient, Tensor velocity, float scale, int groups, "
      "Tensor(a!) dvelocity, Tensor(b!) along) -> ()");
  m.def(
      "normalise(Tensor velocity, Tensor target, Tensor variance, float curvature, float eps, "
      "bool batch, bool space, bool origin, bool distance, Tensor(a!) mean, Tensor(b!) moments, "
      "Tensor(c!) numbers, Tensor(d!) out) -> ()");
  m.def(
      "normalise_backward(Tensor gradient, Tensor velocity, Tensor target, Tensor variance, "
      "float curvature, float eps, bool batch, bool space, bool origin, bool distance, "
      "Tensor mean, Tensor moments, Tensor numbers, "
      "Tensor(a!) dvelocity, Tensor(b!) dtarget, Tensor(c!) dmean, Tensor(d!) dscalars) -> ()");
  m.def(
      "mobius(Tensor left, Tensor right, float curvature, float largest, Tensor(a!) norms, "
      "Tensor(b!) out) -> ()");
  m.def(
      "mobius_backward(Tensor gradient, Tensor left, Tensor right, float curvature, "
      "float largest, Tensor norms, Tensor(a!) dleft, Tensor(b!) dright, Tensor(c!) dcurvature) "
      "-> ()");
  m.def(
      "hyperplanes(Tensor weight, Tensor offset, float curvature, float gain, "
      "Tensor(a!) direction, Tensor(b!) stretch, Tensor(c!) shift) -> ()");
  m.def(
      "hyperplanes_backward(Tensor ddirection, Tensor dstretch, Tensor dshift, Tensor weight, "
      "Tensor offset, float curvature, float gain, Tensor(a!) dweight, Tensor(b!) doffset, "
      "Tensor(c!) dcurvature) -> ()");
  m.def("velocity(Tensor t, float curvature, Tensor(a!) out) -> ()");
  m.def(
      "velocity_backward(Tensor gradient, Tensor t, float curvature, Tensor(a!) dt, "
      "Tensor(b!) dcurvature) -> ()");
  m.def(
      "move_midpoint(Tensor now, Tensor spread, float curvature, float weight, "
      "Tensor(a!) midpoint, Tensor(b!) variance) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(archzoo_poincare, CPU, m) {
  m.impl("patch_squares", TORCH_BOX(&patch_squares));
  m.impl("patch_squares_backward", TORCH_BOX(&patch_squares_backward));
  m.impl("planes", TORCH_BOX(&planes));
  m.impl("planes_backward", TORCH_BOX(&planes_backward));
  m.impl("tangents", TORCH_BOX(&tangents));
  m.impl("tangents_backward", TORCH_BOX(&tangents_backward));
  m.impl("normalise", TORCH_BOX(&normalise));
  m.impl("normalise_backward", TORCH_BOX(&normalise_backward));
  m.impl("mobius", TORCH_BOX(&mobius));
  m.impl("mobius_backward", TORCH_BOX(&mobius_backward));
  m.impl("hyperplanes", TORCH_BOX(&hyperplanes));
  m.impl("hyperplanes_backward", TORCH_BOX(&hyperplanes_backward));
  m.impl("velocity", TORCH_BOX(&velocity));
  m.impl("velocity_backward", TORCH_BOX(&velocity_backward));
  m.impl("move_midpoint", TORCH_BOX(&move_midpoint));
}
