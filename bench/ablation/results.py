"""What a study has found so far, in one file that is whole at every moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from mvc import files
from mvc.cli import json_text
from mvc.errors import UserError

FORMAT = "mvc.studies/1"


class Results:
    """Facts by part and name. Several processes may add to one file, each a part of its own.

    Args:
        path: the file; with None, everything is in memory alone.

    Raises:
        UserError: the file cannot be read or written, or holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.facts: dict[str, Any] = {"format": FORMAT}
        if path is not None:
            files.require_folder(path, "--json")
            self.facts = self._read()

    def require_settings(self, settings: dict[str, Any]) -> None:
        """Refuse to put trainings beside those of other settings, with which they cannot be compared.

        Raises:
            UserError: the file holds such trainings.
        """
        before = self.part("settings")
        differing = [
            f"{name} {before.get(name)!r} there, {value!r} here"
            for name, value in settings.items()
            if before.get(name) != value
        ]
        if before and differing:
            raise UserError(f"--json {self._path} is of other settings ({'; '.join(differing)}); name another file")
        for name, value in settings.items():
            self.add("settings", name, value)

    def part(self, name: str) -> dict[str, Any]:
        return self.facts.get(name, {})

    def add(self, part: str, name: str, facts: Any) -> None:
        """Add facts, to what other processes have written meanwhile."""
        if self._path is None:
            self._put(part, name, facts)
            return
        with FileLock(self._path.with_name(f".{self._path.name}.lock")):
            self.facts = self._read()
            self._put(part, name, facts)
            files.replace(self._path, json_text(self.facts))

    def _put(self, part: str, name: str, facts: Any) -> None:
        self.facts.setdefault(part, {})[name] = facts

    def _read(self) -> dict[str, Any]:
        """The file's facts, or those of this process where there is no file."""
        try:
            facts = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self.facts
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read --json {self._path}: {error}; remove it, or name another file") from error
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise UserError(f"--json {self._path} holds no results of this command; name another file")
        return facts
