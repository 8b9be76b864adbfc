"""Runs pytest and prints each test's name before it starts and its verdict afterwards, in lines of JSON."""

from __future__ import annotations

from typing import Any

import pytest

from bench.on_gpu import worker


class Lines:
    """The plugin of pytest that prints the lines."""

    def __init__(self, answer: worker.Answer, *, collect: bool) -> None:
        self._answer, self._collect = answer, collect
        self._reports: list[pytest.TestReport] = []
        self._without: list[tuple[str, str, str]] = []  # files without tests: name, outcome, reason

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            self._without.append((report.nodeid, report.outcome, reason))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._collect:
            self._answer({"collected": [item.nodeid for item in session.items], "without": self._without})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        self._answer({"started": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        worst = next((each for each in self._reports if not each.passed), self._reports[-1])
        reason = worst.longrepr[2] if worst.skipped and isinstance(worst.longrepr, tuple) else worst.longreprtext
        self._answer(
            {
                "ended": nodeid,
                "outcome": worst.outcome,
                "seconds": sum(each.duration for each in self._reports),
                "message": "" if worst.passed else reason,
            }
        )


def work(asked: dict[str, Any], answer: worker.Answer) -> None:
    options = ["-q", "-p", "no:cacheprovider"]
    if asked["collect"]:
        options.append("--collect-only")
    status = pytest.main([*options, *asked["arguments"]], plugins=[Lines(answer, collect=asked["collect"])])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest {' '.join(asked['arguments'])} ended with status {int(status)}")


if __name__ == "__main__":
    worker.serve(work)
