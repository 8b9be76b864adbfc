"""What the commands share: types of arguments, a parser with examples, exit statuses, and JSON for programs."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mvc import files
from mvc.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNUSABLE, INTERRUPTED = 2, 130  # exit statuses


def parser(
    description: str,
    *,
    prog: str | None = None,
    epilog: str | None = None,
    kind: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """A parser whose description and epilog are printed as they are written.

    Args:
        kind: the parser's class.
    """
    return kind(prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)


def exit_status(run: Callable[[], int], *, unusable: int = UNUSABLE) -> int:
    """What `run` returns. A `UserError` is printed as one sentence, and an interrupt as one word.

    Args:
        unusable: the status for a `UserError`.
    """
    try:
        return run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return unusable
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def positive(text: str) -> int:
    """The type of an argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    if int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 2^63 - 1")
    return int(text)


def seed(text: str) -> int:
    """The type of an argument that torch's generators accept as a seed."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def name(text: str) -> str:
    """The type of an argument that names a file or the like."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; give one, or leave the option out")
    return text


def write_json(facts: dict[str, Any], target: str) -> None:
    """Write what `--json` asks for. A file is written under another name first, so that it is whole or absent.

    Args:
        target: a file, or "-" for standard output.

    Raises:
        UserError: the target cannot be written.
    """
    text = json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        print(text, end="")
        return
    try:
        files.replace(Path(target), text)
    except OSError as error:
        raise UserError(f"cannot write --json {target}: {error.strerror}") from error


def finite(value: float) -> float | None:
    """A number as JSON can hold it: None where it is not finite."""
    return value if math.isfinite(value) else None
