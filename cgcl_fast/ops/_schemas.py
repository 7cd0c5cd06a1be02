"""Schemas of the ops that have kernels: the same texts as in csrc/ops.cpp (a test compares the two)."""

SCHEMAS = (
    "_adain(Tensor x, Tensor? scale, Tensor? shift, float eps, str activation, Tensor? residual)"
    " -> (Tensor, Tensor, Tensor)",
    "_adain_backward(Tensor grad, Tensor x, Tensor? scale, Tensor? shift, Tensor mean, Tensor rstd, str activation)"
    " -> (Tensor, Tensor, Tensor)",
)
