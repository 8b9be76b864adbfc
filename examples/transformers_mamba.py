"""transformers' MambaForCausalLM on a CPU: its own scan, and compiled with this one.

transformers looks for mamba-ssm once, when it imports the model, so each way runs in a process of its own.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

import mvc.compat


def run(with_op: bool, layers: int, hidden: int, length: int) -> tuple[np.ndarray, float]:
    """Logits of a model with random weights, and the seconds of the best of three passes."""
    if with_op:
        mvc.compat.install()
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=1000, hidden_size=hidden, num_hidden_layers=layers, use_cache=False)
    model = MambaForCausalLM(config).eval()
    tokens = torch.randint(config.vocab_size, (1, length))
    if with_op:
        model = torch.compile(model, fullgraph=True)
    seconds = []
    with torch.no_grad():
        logits = model(tokens).logits
        for _ in range(3):
            start = time.perf_counter()
            model(tokens)
            seconds.append(time.perf_counter() - start)
    return logits.numpy(), min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--length", type=int, default=512, help="tokens")
    sizes = parser.parse_args()
    results = []
    for with_op in (False, True):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            results.append(fresh.submit(run, with_op, sizes.layers, sizes.hidden, sizes.length).result())
    (own, own_seconds), (ours, our_seconds) = results
    np.testing.assert_allclose(ours, own, rtol=1e-4, atol=1e-4)
    print(f"transformers' own scan        : {own_seconds * 1e3:8.1f} ms")
    print(f"mvc::selective_scan, compiled : {our_seconds * 1e3:8.1f} ms")
    print(f"largest difference of a logit : {np.abs(ours - own).max():.1e} (largest logit {np.abs(own).max():.1f})")


if __name__ == "__main__":
    main()
