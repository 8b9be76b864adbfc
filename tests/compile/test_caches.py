"""The caches of compiled code are empty and lie in a folder of their own for a while, and nothing of it stays."""

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest
import torch

from mvc.compile.caches import CACHES, empty_caches
from mvc.compile.torch_private import VECTOR_ISA_CHECKS


def test_caches_are_an_empty_folder_that_goes(monkeypatch):
    monkeypatch.setenv(CACHES[0], "mine")
    monkeypatch.delenv(CACHES[1], raising=False)
    with empty_caches():
        folder = os.environ[CACHES[1]]
        assert [os.environ[name] for name in CACHES] == [folder] * len(CACHES)
        assert os.listdir(folder) == []
    assert not os.path.exists(folder)
    assert os.environ[CACHES[0]] == "mine"
    assert CACHES[1] not in os.environ


@pytest.mark.versions
def test_what_was_compiled_before_is_compiled_again():
    for _ in range(2):
        torch.compiler.reset()
        with empty_caches():
            torch.compile(torch.sin)(torch.ones(8))
            assert [*Path(os.environ[CACHES[0]]).rglob("*.so")]


def test_the_folder_goes_after_what_still_writes_into_it():
    def write(folder: Path) -> None:
        time.sleep(0.2)
        (folder / "build").mkdir(parents=True)

    with contextlib.suppress(KeyboardInterrupt), empty_caches():
        folder = Path(os.environ[CACHES[0]])
        threading.Thread(target=write, args=(folder,), name=VECTOR_ISA_CHECKS).start()
        raise KeyboardInterrupt
    time.sleep(0.3)
    assert not folder.exists()
