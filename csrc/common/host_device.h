// Functions that C++ on the CPU and CUDA C++ share.
#pragma once

#if defined(__CUDACC__)
#define CGCL_HOST_DEVICE __host__ __device__ inline
#else
#define CGCL_HOST_DEVICE inline
#endif
