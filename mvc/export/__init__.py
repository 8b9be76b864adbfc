"""Models as files that run elsewhere: AOTInductor packages, ONNX, exported programs.

`mvc.export_model` writes them. A process that only loads one imports neither passes nor kernels.
"""

from mvc.export.loading import load as load
