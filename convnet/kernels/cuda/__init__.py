"""CUDA kernels for CuPy arrays.

The ``.cu`` files are plain CUDA C++, one small file for each concern; NVRTC compiles them when the first kernel is asked for.

- `convnet.kernels.cuda.kernels.CudaKernels`: the kernel interface;
- `convnet.kernels.cuda.products`: matrix products and convolutions, by own kernels or by cuBLAS;
- `convnet.kernels.cuda.capture`: a whole training step recorded as a CUDA graph.
"""
