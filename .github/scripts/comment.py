"""Put the gate's result on the pull request whose run has ended: one comment for each workflow, updated in place.

`.github/workflows/comment.yml` runs this file, as it stands on the default branch, after a run that may have executed a
stranger's code, with a token that may write comments. So it executes nothing of the pull request and believes nothing
that came from it: the pull request is found by the head repository, branch and commit of the event, and the artifact is
read as a text of limited length. From a fork the text stands in a code block, where no mention, link or image acts.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

ARTIFACT, PAGE = "regress", "regress.md"
MOST_BYTES = 50_000_000  # of the artifact, which also holds every time measured
MOST_CHARACTERS = 60_000  # of the page; GitHub takes comments of 65,536
AUTHOR = "github-actions[bot]"


def main() -> None:
    repository = os.environ["GITHUB_REPOSITORY"]
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    run, name = event["workflow_run"], event["workflow"]["name"]
    if run["conclusion"] == "skipped":
        return print("the run was skipped: nothing to tell")
    number = pull_request(repository, run)
    if number is None:
        return print(f"no open pull request, or several, with the head {run['head_sha']}: no comment")
    marker = f"<!-- mvc.regress: {name} -->"
    body = f"{marker}\n{text(repository, run, name)}\n"
    before = own_comment(repository, number, marker)
    if before is None:
        gh(f"repos/{repository}/issues/{number}/comments", "--method", "POST", body=body)
    else:
        gh(f"repos/{repository}/issues/comments/{before}", "--method", "PATCH", body=body)
    print(f"{'commented on' if before is None else 'updated the comment on'} pull request {number}")


def pull_request(repository: str, run: dict[str, Any]) -> int | None:
    """The number of the one open pull request with the head of the run; `run["pull_requests"]` has none from forks."""
    head = run["head_repository"]
    if head is None:  # a fork that is gone
        return None
    name = f"{head['owner']['login']}:{run['head_branch']}"
    found = listed(f"repos/{repository}/pulls", "--method", "GET", "-f", "state=open", "-f", f"head={name}")
    matching = [
        each["number"]
        for each in found
        if each["head"]["sha"] == run["head_sha"] and (each["head"]["repo"] or {}).get("id") == head["id"]
    ]
    return matching[0] if len(matching) == 1 else None


def text(repository: str, run: dict[str, Any], name: str) -> str:
    """The comment without its marker: the page of the run, or that there is none, and what was measured."""
    page = downloaded(repository, run)
    if page is None:
        page = f"**{name}: no result.** The run ended ({run['conclusion']}), and left none that can be read."
    elif run["head_repository"]["full_name"] != repository:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", page)), default=0))
        page = f"{fence}text\n{page}\n{fence}"
    return f"{page}\n\nCommit {run['head_sha'][:12]}, as [this run]({run['html_url']}) measured it."


def downloaded(repository: str, run: dict[str, Any]) -> str | None:
    """The page of the run's newest artifact, cut where it is too long; None where there is none."""
    found = listed(f"repos/{repository}/actions/runs/{run['id']}/artifacts", key="artifacts")
    named = [each for each in found if each["name"] == ARTIFACT and not each["expired"]]
    newest = max(named, key=lambda each: each["created_at"], default=None)
    if newest is None or newest["size_in_bytes"] > MOST_BYTES:
        return None
    try:
        archive = zipfile.ZipFile(io.BytesIO(gh(f"repos/{repository}/actions/artifacts/{newest['id']}/zip")))
        with archive.open(PAGE) as page:
            data = page.read(4 * MOST_CHARACTERS + 1)  # however long it claims to be
    except (zipfile.BadZipFile, KeyError) as error:
        print(f"the artifact holds no {PAGE} that can be read: {error}")
        return None
    whole = data.decode("utf-8", errors="replace").replace("\0", "").strip()
    return whole if len(whole) <= MOST_CHARACTERS else f"{whole[:MOST_CHARACTERS]}\n\n(cut; the artifact has all of it)"


def own_comment(repository: str, number: int, marker: str) -> int | None:
    """The comment that begins with the marker and is of this workflow's token: others can write the same marker."""
    for each in listed(f"repos/{repository}/issues/{number}/comments"):
        if (each["user"] or {}).get("login") == AUTHOR and (each["body"] or "").startswith(marker):
            return each["id"]
    return None


def listed(path: str, *arguments: str, key: str | None = None) -> list[dict[str, Any]]:
    """All entries of a list of GitHub's API, page by page."""
    pages = json.loads(gh(path, "--paginate", "--slurp", *arguments))
    return [entry for page in pages for entry in (page[key] if key else page)]


def gh(path: str, *arguments: str, body: str | None = None) -> bytes:
    """What `gh api` answers. The body of a comment goes through standard input, never through a command line."""
    given = () if body is None else ("--input", "-")
    sent = None if body is None else json.dumps({"body": body}).encode()
    done = subprocess.run(["gh", "api", path, *arguments, *given], input=sent, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"gh api {path} failed")
    return done.stdout


if __name__ == "__main__":
    main()
