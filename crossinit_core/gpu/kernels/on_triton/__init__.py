"""The fused operations as Triton kernels, for NVIDIA and AMD GPUs; every module but `launch` and `layout` needs Triton."""
