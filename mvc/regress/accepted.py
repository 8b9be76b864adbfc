"""Slowdowns that are meant: a small file beside the cases, which a review sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from mvc import files
from mvc.errors import UserError
from mvc.regress import toml

HEADING = "# Slowdowns that are meant; `python -m mvc.regress accept CASE --reason TEXT` adds one.\n"
Accepted = Mapping[str, list[str]]  # "date: reason" of each acceptance, by the case's name


def path_for(cases: Path) -> Path:
    """The file that belongs to a file of cases: NAME.accepted.toml beside it."""
    return cases.with_suffix(".accepted.toml")


def read(path: Path) -> dict[str, list[str]]:
    """What a file accepts; nothing where there is none.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        entries = toml.read(path)["accepted"]
        found: dict[str, list[str]] = {}
        for entry in entries:
            found.setdefault(entry["case"], []).append(f"{entry['date']}: {entry['reason']}")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no file of accepted slowdowns ({error!r}); it holds [[accepted]] with case, date and reason"
        ) from error
    return found


def add(path: Path, case: str, reason: str) -> None:
    """Accept the slowdown of a case from now on.

    Args:
        reason: at least a word; a reader of the file learns from it why the case is slower.

    Raises:
        UserError: no reason, or a file that cannot be read or written.
    """
    reason = " ".join(reason.split())
    if not reason.isprintable() or not reason:
        raise UserError(f"--reason is {reason!r}; say in words why the slowdown is meant")
    read(path)  # a file that is damaged is not made longer
    before = path.read_text(encoding="utf-8") if path.is_file() else HEADING
    today = datetime.now(timezone.utc).date().isoformat()
    entry = {"case": case, "date": today, "reason": reason}
    lines = [f"{name} = {json.dumps(text, ensure_ascii=False)}" for name, text in entry.items()]
    try:
        files.replace(path, "\n".join([before.rstrip("\n"), "", "[[accepted]]", *lines, ""]))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def news(base: Accepted, head: Accepted, case: str) -> str | None:
    """What head accepts of a case and base does not; None where that is nothing."""
    return "; ".join(each for each in head.get(case, []) if each not in base.get(case, [])) or None
