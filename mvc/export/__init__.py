"""Models as files that run elsewhere: AOTInductor packages, ONNX, exported programs.

`mvc.export_model` writes them. A process that only loads one imports neither the compiler nor the passes of mvc.
"""

from mvc.export.loading import load as load
