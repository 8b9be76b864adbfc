"""Detection and segmentation with MambaVision as the backbone."""
