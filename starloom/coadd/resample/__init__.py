"""Resampling: the kernels, compiled, and everything a kernel needs to know about one tile of one frame."""

from starloom.coadd.resample.kernels import Sampling, choose_kernel, noise_factor

__all__ = ["Sampling", "choose_kernel", "noise_factor"]
