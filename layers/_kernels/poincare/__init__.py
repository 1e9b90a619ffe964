"""The layers of the Poincaré ball: in C++ for CPUs, their pointwise part in Triton for CUDA."""
