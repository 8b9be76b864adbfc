"""The scripts that the workflows run: what becomes of an exit status, and comments on pull requests."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
from places import ROOT

GATE, COMMENT = (ROOT / ".github" / "scripts" / name for name in ("gate.sh", "comment.py"))
SENTENCE = "scan: 30 % slower, 1.00 to 1.31 ms; 11 cases unchanged"


@pytest.mark.parametrize(
    ("status", "page", "passes", "told"),
    [
        (0, SENTENCE, 0, ""),
        (1, f"## {SENTENCE}\n\nmore\n", 1, f"::error title=Latency::{SENTENCE.replace('%', '%25')}\n"),
        (2, SENTENCE, 0, f"::warning title=Latency::{SENTENCE.replace('%', '%25')}\n"),
        (3, "**not comparable: another driver**", 3, "::error title=Latency::not comparable: another driver\n"),
        (73, SENTENCE, 73, f"::error title=Latency::exit status 73; {SENTENCE.replace('%', '%25')}\n"),
        (0, None, 1, "::error title=Latency::no result, exit status 0; the log of this step says why\n"),
        (2, None, 1, "::error title=Latency::no result, exit status 2; the log of this step says why\n"),
        (70, None, 70, "::error title=Latency::no result, exit status 70; the log of this step says why\n"),
    ],
)
def test_what_becomes_of_an_exit_status(status, page, passes, told, tmp_path):
    (tmp_path / "regress.md").write_text("of an earlier run")
    if page is not None:
        (tmp_path / "page").write_text(page)
    done = subprocess.run(
        [GATE, "regress.md", "sh", "-c", f"if [ -f page ]; then cp page regress.md; fi; exit {status}"],
        cwd=tmp_path,
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (passes, told), done.stderr
    summary = tmp_path / "summary"
    assert (summary.read_text() if summary.exists() else None) == page


# `gh api`: it answers from a table, by path, and keeps what it is asked to write.
GH = """#!{python}
import json, sys
command, path, *rest = sys.argv[1:]
assert command == "api"
folder = {folder!r}
if "--input" in rest:
    method = rest[rest.index("--method") + 1]
    with open(folder + "/written", "a") as file:
        file.write(json.dumps([method, path, json.load(sys.stdin)["body"]]) + "\\n")
elif path.endswith("/zip"):
    sys.stdout.buffer.write(open(folder + "/zip", "rb").read())
else:
    assert "--slurp" in rest and "--paginate" in rest
    print(json.dumps([json.load(open(folder + "/answers"))[path]]))
"""
OURS, THEIRS = (
    {"id": 1, "full_name": "we/code", "owner": {"login": "we"}},
    {
        "id": 2,
        "full_name": "they/code",
        "owner": {"login": "they"},
    },
)
MARKER = "<!-- mvc.regress: Compiled code -->"
BOT = {"login": "github-actions[bot]"}


class Hub:
    """A GitHub of one pull request, whose run has ended."""

    def __init__(self, folder, head):
        self.folder = folder
        self.run = {
            "id": 5,
            "conclusion": "failure",
            "head_sha": "a" * 40,
            "head_branch": "fix",
            "head_repository": head,
        }
        self.run["html_url"] = "https://github.example/run/5"
        self.pulls = [{"number": 7, "head": {"sha": "a" * 40, "repo": head}}]
        self.artifacts = [
            {"id": 9, "name": "regress", "expired": False, "created_at": "2026-01-01", "size_in_bytes": 1}
        ]
        self.comments = [{"id": 1, "user": {"login": "they"}, "body": MARKER}, {"id": 2, "user": BOT, "body": "else"}]
        self.page("**scan: slower**")

    def page(self, text, name="regress.md"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, text)
        (self.folder / "zip").write_bytes(packed.getvalue())

    def comment(self):
        """Run the script; return what it wrote: method, path and body."""
        answers = {
            "repos/we/code/pulls": self.pulls,
            "repos/we/code/actions/runs/5/artifacts": {"artifacts": self.artifacts},
            "repos/we/code/issues/7/comments": self.comments,
        }
        (self.folder / "answers").write_text(json.dumps(answers))
        (self.folder / "event").write_text(
            json.dumps({"workflow_run": self.run, "workflow": {"name": "Compiled code"}})
        )
        gh = self.folder / "gh"
        gh.write_text(GH.format(python=sys.executable, folder=str(self.folder)))
        gh.chmod(0o755)
        variables = {"GITHUB_REPOSITORY": "we/code", "GITHUB_EVENT_PATH": str(self.folder / "event")}
        environment = {**os.environ, **variables, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        subprocess.run([sys.executable, "-S", COMMENT], env=environment, check=True)
        written = self.folder / "written"
        return [json.loads(line) for line in written.read_text().splitlines()] if written.exists() else []


@pytest.fixture(params=[OURS, THEIRS], ids=["ours", "fork"])
def hub(request, tmp_path):
    return Hub(tmp_path, request.param)


def test_a_comment_is_made_and_then_updated(hub):
    ((method, path, body),) = hub.comment()
    assert (method, path) == ("POST", "repos/we/code/issues/7/comments")  # a stranger's marker is not taken for ours
    assert body.startswith(MARKER)
    assert "**scan: slower**" in body
    assert "aaaaaaaaaaaa" in body
    assert "https://github.example/run/5" in body
    hub.comments.append({"id": 3, "user": BOT, "body": body})
    assert hub.comment()[1][:2] == ["PATCH", "repos/we/code/issues/comments/3"]


def test_what_a_fork_wrote_is_shown_as_it_is(tmp_path):
    hub = Hub(tmp_path, THEIRS)
    hub.page("@everyone ![](x)\n```\n<img>\n````\n" + "x" * 100_000)
    ((_, _, body),) = hub.comment()
    _, opening, *lines, closing, _, _ = body.rstrip("\n").split("\n")
    assert (opening, closing) == ("`````text", "`````")
    assert not any(line.startswith("`````") for line in lines)
    assert len(body) < 65_536


@pytest.mark.parametrize(
    "change",
    [
        {"head_sha": "b" * 40},  # a newer push
        {"conclusion": "skipped"},
        {"head_repository": {"id": 3, "full_name": "other/code", "owner": {"login": "other"}}},
        {"head_repository": None},
    ],
)
def test_runs_that_are_not_the_pull_request_s_say_nothing(hub, change):
    hub.run.update(change)
    assert hub.comment() == []


def test_two_pull_requests_with_one_head_get_no_comment(hub):
    hub.pulls *= 2
    assert hub.comment() == []


@pytest.mark.parametrize("loss", ["artifact", "page", "archive", "size"])
def test_a_run_without_a_page_is_told(hub, loss):
    if loss == "artifact":
        hub.artifacts.clear()
    elif loss == "page":
        hub.page("11", name="number.txt")
    elif loss == "archive":
        (hub.folder / "zip").write_bytes(b"no archive")
    else:
        hub.artifacts[0]["size_in_bytes"] = 1e9
    ((_, path, body),) = hub.comment()
    assert path.startswith("repos/we/code/issues/7/")
    assert "no result" in body
    assert "(failure)" in body
