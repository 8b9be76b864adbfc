"""What the commands share: types of arguments, a parser with examples, exit statuses, and JSON for programs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from mvc import files
from mvc.errors import UserError
from mvc.model.config import MIN_IMAGE_SIZE
from mvc.model.image import MAX_SIDE
from mvc.patches import replaced

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
UNUSABLE, INTERRUPTED, UNREAD = 2, 130, 141  # exit statuses
MOMENT = 0.01  # seconds until a lost signal is raised again
STOPPING = {
    getattr(signal, name): word
    for name, word in (("SIGTERM", "terminated"), ("SIGHUP", "hung up"))
    if hasattr(signal, name)  # Windows has no SIGHUP
}


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


class _Stopped(BaseException):
    """A signal asks the process to end; its argument is the number."""


def exit_status(run: Callable[[], int], *, unusable: int = UNUSABLE) -> int:
    """What `run` returns. A `UserError` is printed as one sentence. An interrupt, SIGTERM or SIGHUP is raised in it, so
    that it cleans up, and is printed as one word; the status is then 128 and the signal's number. So it is where the
    reader of standard output, such as `head`, has gone. What the terminal's encoding lacks is printed as an escape.

    Args:
        unusable: the status for a `UserError`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _signals_raised():
            status = run()
            if sys.stdout:  # there is none where the caller closed it
                sys.stdout.flush()
            return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return unusable
    except BrokenPipeError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what Python itself flushes at its end
        return UNREAD
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except _Stopped as stop:
        (number,) = stop.args
        print(STOPPING[number], file=sys.stderr)
        return 128 + number


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """Turn the signals of `STOPPING` into exceptions in the block, unless they are ignored (nohup) or handled already.
    Only the main thread can; another one leaves everything as it is.

    Python only prints what is raised in a callback of a weak reference, of which torch has many: an interrupt or signal
    that arrives there is raised once more.
    """

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one, for the whole group say, does not stop the cleaning up
        raise _Stopped(number)

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        if isinstance(lost.exc_value, _Stopped):
            (number,) = lost.exc_value.args
            signal.signal(number, stop)
        elif isinstance(lost.exc_value, KeyboardInterrupt):
            number = signal.SIGINT
        else:
            print_lost(lost)
            return
        # From another thread, since here it would be lost again.
        threading.Timer(MOMENT, _send_to_main_thread, (number,)).start()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    print_lost = sys.unraisablehook
    numbers = [number for number in STOPPING if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, stop)
        with replaced(sys, "unraisablehook", raise_again):
            yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _send_to_main_thread(number: int) -> None:
    """Where the system can, so that it wakes from what it waits for; Windows cannot."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        signal.raise_signal(number)


def positive(text: str) -> int:
    """The type of an argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    if int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 2^63 - 1")
    return int(text)


def count(text: str) -> int:
    """The type of an argument that is a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def side(text: str) -> int:
    """The type of an argument that is the side of square images in pixels."""
    if not text.isdecimal() or not MIN_IMAGE_SIZE <= int(text) <= MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {MIN_IMAGE_SIZE} to {MAX_SIDE}")
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


def device(name: str) -> torch.device:
    """What `--device` names; "auto" is a GPU where there is one.

    Raises:
        UserError: a GPU is asked for and torch finds none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda, but torch finds no CUDA device; use --device cpu, or a CUDA build of torch")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def json_text(facts: dict[str, Any] | list[Any]) -> str:
    """The text of a JSON file for programs; what is not finite is an error. Bytes of a file's name that are no UTF-8,
    which Python holds as lone surrogates, are written as JSON's escapes of these."""
    return files.encodable(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def write_json(facts: dict[str, Any] | list[Any], target: str) -> None:
    """Write what `--json` asks for. A file is written under another name first, so that it is whole or absent.

    Args:
        target: a file, or "-" for standard output.

    Raises:
        UserError: the target cannot be written.
    """
    text = json_text(facts)
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
