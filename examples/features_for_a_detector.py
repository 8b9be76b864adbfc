"""MambaVision as the backbone of a detector: four maps at strides 4, 8, 16 and 32, from an image of any size."""

import torch

from mvc import create_model


def main() -> None:
    backbone = create_model("tiny", num_classes=0).eval()
    with torch.no_grad():
        features = backbone.forward_features(torch.randn(1, 3, 200, 320))
    for stride, stage in zip((4, 8, 16, 32), features.stages, strict=True):
        print(f"stride {stride:2}: {tuple(stage.shape)}")
    print(f"pooled   : {tuple(features.pooled.shape)}")


if __name__ == "__main__":
    main()
