"""The log of a training: lines of JSON that a kill neither doubles nor loses.

There are two files. `log.jsonl` holds what was computed, and is the same to the bit whether or not a training was
interrupted; `throughput.jsonl` holds how long it took. A checkpoint has the lengths of both, and resuming cuts them
there: what was written after the checkpoint is computed, and written, again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mvc.errors import UserError

COMPUTED, TIMED = "log.jsonl", "throughput.jsonl"


class Log:
    """Both files of one folder, open for adding lines.

    Args:
        folder: where they are.
        lengths: bytes of each file to keep, as from `lengths` at a checkpoint; None begins both anew.

    Raises:
        UserError: a file is shorter than the checkpoint says, or it cannot be written; so do the methods that write.
    """

    def __init__(self, folder: Path, lengths: Mapping[str, int] | None = None) -> None:
        self._files = {}
        for name in (COMPUTED, TIMED):
            path, kept = folder / name, 0 if lengths is None else lengths[name]
            found = path.stat().st_size if path.exists() else 0
            if found < kept:
                raise UserError(
                    f"{path} has {found} bytes where the checkpoint counted {kept}: it was cut or removed; put it "
                    "back, or train into another folder"
                )
            with _writing(path):
                self._files[name] = path.open("ab")
                self._files[name].truncate(kept)

    def computed(self, line: Mapping[str, Any]) -> None:
        """Add a line of what was computed."""
        self._add(COMPUTED, line)

    def timed(self, line: Mapping[str, Any]) -> None:
        """Add a line of what it took."""
        self._add(TIMED, line)

    def _add(self, name: str, line: Mapping[str, Any]) -> None:
        with _writing(Path(self._files[name].name)):
            self._files[name].write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._files[name].flush()  # to the system, which keeps it when the process is killed

    def lengths(self) -> dict[str, int]:
        """Bytes of each file, which a checkpoint keeps."""
        return {name: file.seek(0, 2) for name, file in self._files.items()}


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; make room, and go on with --resume") from error


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; one that a kill cut short is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
