// Marks functions that are compiled both by the C++ compiler and by nvcc.
#pragma once

#if defined(__CUDACC__)
#define CGCL_HOST_DEVICE __host__ __device__ inline
#else
#define CGCL_HOST_DEVICE inline
#endif
