"""The models that MambaVision is compared with, on the scan of `mvc.kernels`."""
