// Schemas of the ops that have native kernels. The same texts stand in cgcl_fast/ops/_schemas.py for an installation
// without this library; a test compares the two.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(cgcl_fast, m) {
  m.def("_adain(Tensor x, Tensor? scale, Tensor? shift, float eps, str activation, Tensor? residual)"
        " -> (Tensor, Tensor, Tensor)");
  m.def("_adain_backward(Tensor grad, Tensor x, Tensor? scale, Tensor? shift, Tensor mean, Tensor rstd, str activation)"
        " -> (Tensor, Tensor, Tensor)");
}
