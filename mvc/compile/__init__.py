"""The backend "mvc", `compile_model`, and the command `python -m mvc.compile`."""
