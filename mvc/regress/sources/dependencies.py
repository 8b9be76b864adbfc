"""Whether the packages that are installed are those that both sides ask for."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mvc.errors import UserError
from mvc.regress import toml
from mvc.regress.sources.revisions import Sources

# Run by the interpreter of a side: what it has installed, and what markers of requirements may ask for.
PROBE = """
import importlib.metadata, json, os, platform, sys
installed = {}
for each in importlib.metadata.distributions():
    if each.metadata["Name"]:
        installed.setdefault(each.metadata["Name"], [each.version, each.requires or []])
info = sys.implementation.version
release = f"{info.major}.{info.minor}.{info.micro}"
if info.releaselevel != "final":
    release += info.releaselevel[0] + str(info.serial)
print(json.dumps({"installed": installed, "markers": {
    "implementation_name": sys.implementation.name, "implementation_version": release, "os_name": os.name,
    "platform_machine": platform.machine(), "platform_release": platform.release(),
    "platform_system": platform.system(), "platform_version": platform.version(),
    "python_full_version": platform.python_version(),
    "platform_python_implementation": platform.python_implementation(),
    "python_version": ".".join(platform.python_version_tuple()[:2]), "sys_platform": sys.platform,
}}))
"""


def alike(
    base: Sources, head: Sources, *, pythons: tuple[str | None, str | None] = (None, None)
) -> tuple[list[str], list[str]]:
    """Whether two sides can be compared with the packages that are installed. Where their dependencies differ, and what
    is installed satisfies both, that is a remark.

    Args:
        pythons: the interpreters of both sides; None is this one.

    Returns:
        remarks, those of the sources among them, and obstacles: a sentence each.

    Raises:
        UserError: they differ, and the package `packaging` is missing, or an interpreter cannot be asked.
    """
    sides = (base, head)
    found = [requirements(side.folder) for side in sides]
    remarks = [*base.remarks, *head.remarks] + [
        f"{side.name} tells no dependencies in a pyproject.toml: whether what is installed suits it is not known"
        for side, listed in zip(sides, found, strict=True)
        if listed is None
    ]
    if None in found or sorted(found[0]) == sorted(found[1]):
        return remarks, []
    obstacles = [
        f"{side.name} needs {wanted}; install what both sides need, or give each its own with --base-python and"
        " --head-python"
        for side, listed, python in zip(sides, found, pythons, strict=True)
        for wanted in unmet(listed, python)
    ]
    if obstacles:
        return remarks, obstacles
    gone, new = (sorted(set(found[i]) - set(found[1 - i])) for i in (0, 1))
    changes = " and ".join(
        f"{side.name} asks for {', '.join(listed)}" for side, listed in ((base, gone), (head, new)) if listed
    )
    return [*remarks, f"the dependencies differ: {changes}; what is installed satisfies both sides"], []


def requirements(tree: Path) -> list[str] | None:
    """The dependencies of the sources in a folder, by `[project]` of their pyproject.toml; None where it does not tell
    them, or leaves them to a build system."""
    try:
        project = toml.read(tree / "pyproject.toml")["project"]
        if "dependencies" in project.get("dynamic", ()):
            return None
        listed = project.get("dependencies", [])
    except (OSError, KeyError, AttributeError, TypeError, ValueError):
        return None
    return listed if isinstance(listed, list) and all(isinstance(each, str) for each in listed) else None


def unmet(wanted: Iterable[str], python: str | None = None) -> list[str]:
    """Those of the requirements that what is installed does not satisfy, each with what is there instead.

    Args:
        wanted: requirements as in a pyproject.toml. Extras count, and markers are those of the interpreter.
        python: an interpreter, by default this one.

    Raises:
        UserError: the package `packaging` is missing, or the interpreter cannot be asked.
    """
    try:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name
    except ImportError as error:
        raise UserError(
            "dependencies that differ are judged with the package packaging; pip install packaging"
        ) from error
    facts = _facts(python or sys.executable)
    installed = {canonicalize_name(name): each for name, each in facts["installed"].items()}
    seen: set[tuple[str, str]] = set()

    def lacking(text: str, extra: str) -> list[str]:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            return [f"{text} ({str(error).splitlines()[0]})"]
        if requirement.marker and not requirement.marker.evaluate({**facts["markers"], "extra": extra}):
            return []
        name = canonicalize_name(requirement.name)
        if name not in installed:
            return [f"{text} (not installed)"]
        version, needs = installed[name]
        if not requirement.specifier.contains(version, prereleases=True):
            return [f"{text} (installed is {version})"]
        new = [each for each in sorted(requirement.extras) if (name, each) not in seen]
        seen.update((name, each) for each in new)
        return [missing for each in new for need in needs if "extra" in need for missing in lacking(need, each)]

    return [missing for text in wanted for missing in lacking(text, "")]


@functools.cache
def _facts(python: str) -> dict[str, Any]:
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"the interpreter {python} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise UserError(f"the interpreter {python} fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout)
