"""The backend "mvc", `compile_model`, and the command `python -m mvc.compile`."""

from mvc.compile.precompiled import register

register()
