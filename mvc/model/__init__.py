"""The MambaVision network: its configuration, parameters, functions and module, its checkpoints and images."""
