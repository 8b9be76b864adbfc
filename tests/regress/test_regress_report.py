"""The page of all cases: what it says, that foreign text stays text, and that it needs no other file."""

import dataclasses
import json
import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest
from fake_worker import fake
from made_up_recordings import FIRST, nightly, six_months, varying, write

from mvc.regress import history
from mvc.regress.__main__ import main
from mvc.regress.changes import FEWEST
from mvc.regress.recordings import branch
from mvc.regress.results import chart, labels, report
from mvc.regress.results.markup import document, node
from mvc.regress.sources.git import git

pytest.importorskip("ruptures", reason="ruptures, of the extra `history`, is not installed")

MADE = datetime(2026, 7, 1, tzinfo=timezone.utc)
VOID = ("meta",)
FOREIGN = "</script></style><script>alert('1')</script><b onclick=\"x\">&amp;\x1b[31m"
SHOWN = FOREIGN.replace("\x1b", "?")


class Page(HTMLParser):
    """A page's elements as (tag, attributes), and its texts; every element is closed where it belongs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(f"{each}\n" for each in self.texts).split())


def page(recordings, **changes) -> Page:
    contents = report.Contents("Latency", history.series(recordings), None, [], [], MADE)
    return Page(report.page(dataclasses.replace(contents, **changes)))


@pytest.fixture(scope="module")
def months():
    return history.series(six_months())


def test_every_case_change_and_version_is_there_as_text(months):
    text = page([], series=months).text
    for each in months:
        assert each.name in text
        assert each.points[-1].version_name in text
        assert all(change.text in text for change in each.changes)
    for version in ("570.124", "580.65", "2.14.1", "2.15.0", "Example GPU"):
        assert version in text
    assert text.count("All 180 recordings as a table") == len(months)


def test_the_first_words_are_the_verdict(months):
    found = page([], series=months)
    alarms = [change for each in months for change in each.alarms]
    worst = labels.percent(max(alarms, key=lambda change: change.ratio))
    assert len(alarms) == 2
    words = f"2 slowdowns stand, the worst {worst} in decoder"
    assert found.texts[found.texts.index(words) - 1] == "Latency", "the heading is followed by it"
    assert f"Latency: {words}" in found.texts, "the window's title"


@pytest.mark.parametrize(
    ("nights", "ratio", "words", "style"),
    [
        (1, 1.0, f"Too early to tell: no case has {FEWEST} recordings", "card unknown"),
        (20, 1.0, "All quiet: no slowdown stands", "card quiet"),
        (20, 1.3, "1 slowdown stands: +30.0% in scan", "card alarm"),
        (20, 0.7, "All quiet: no slowdown stands", "card quiet"),
    ],
)
def test_the_card(nights, ratio, words, style):
    seconds = varying((0, 1e-3), (10, ratio * 1e-3), nights=nights)
    found = page(nightly({"scan": seconds}, noise=0.0), made=FIRST + timedelta(days=nights))
    assert words in found.texts
    assert ("section", {"class": style, "aria-label": "Summary"}) in found.elements


@pytest.mark.parametrize("ratio", [1.0, 1.3], ids=["quiet", "alarm"])
def test_what_is_not_seen_is_said_first(ratio):
    """A page is not green where it is blind."""
    seconds = varying((0, 1e-3), (10, ratio * 1e-3), nights=20)
    recordings = nightly({"scan": seconds, "gone": seconds, "new": seconds}, noise=0.0)
    for i, each in enumerate(recordings):
        missing = "gone" if i == 19 else "new" if i < 15 else None
        recordings[i] = each._replace(cases={name: case for name, case in each.cases.items() if name != missing})
    found = page(recordings, made=FIRST + timedelta(days=30), unreadable=["a.json is cut off"])
    doubts = (
        "nothing was recorded for 11 days; gone is not in the last recording; new has fewer than 6 recordings; "
        "1 recording could not be read"
    )
    assert (f"No slowdown stands, but {doubts}" if ratio == 1 else f"Not sure: {doubts}.") in found.texts
    style = "card unknown" if ratio == 1 else "card alarm"
    assert ("section", {"class": style, "aria-label": "Summary"}) in found.elements


def test_machines_are_told_apart():
    """The last recording of one machine is not missing on the other."""
    other = dict.fromkeys(["device"], ["cuda: Another GPU"] * 8)
    recordings = [
        *nightly({"scan": [1e-3] * 8}),
        *nightly({"scan": [2e-3] * 8}, first=FIRST - timedelta(days=9), **other),
    ]
    found = page(recordings)
    assert "not in the last recording" not in found.text
    assert "Machines, as in the last recording" in found.texts
    for machine in ("cuda-example-gpu-16-threads", "cuda-another-gpu-16-threads"):
        assert found.texts.count(machine) == 2, "at a glance, and with its facts"


def test_foreign_text_stays_text():
    recordings = nightly({FOREIGN: varying((0, 1e-3), (10, 2e-3), nights=20)}, driver=[FOREIGN] * 20)
    found = page(recordings, title=FOREIGN, unreadable=[FOREIGN])
    assert {tag for tag, _ in found.elements}.isdisjoint({"script", "b"})
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert found.texts.count(SHOWN) >= 4, "the title, the case, the driver, and what was left out"


def test_the_page_needs_no_other_file(months):
    found = page([], series=months)
    for _, attributes in found.elements:
        assert attributes.keys().isdisjoint({"src", "srcset", "action", "data"})
        assert attributes.get("href", "#").startswith("#")
    style = report.STYLE.read_text()
    assert style in "".join(found.texts)
    assert not re.search(r"url\(|@import|https?:|</", style)
    targets = {attributes["href"][1:] for _, attributes in found.elements if "href" in attributes}
    assert targets == {attributes["id"] for tag, attributes in found.elements if tag == "article"}


def test_pictures_have_text_alternatives(months):
    pictures = [attributes for tag, attributes in page([], series=months).elements if tag == "svg"]
    assert len(pictures) == 3 * len(months)
    for attributes in pictures:
        assert attributes.get("aria-hidden") == "true" or attributes["aria-label"]


@pytest.mark.parametrize("kind", chart.WIDTHS)
def test_many_changes_leave_labels_that_do_not_clash(kind):
    """So many steps have no room for as many sentences."""
    seconds = [1e-3 * 1.2 ** (night // 8) for night in range(120)]
    (series,) = history.series(nightly({"scan": seconds}, noise=0.001))
    assert len(series.changes) > 10
    width = chart.WIDTHS[kind]
    marks = [width * change.index / 120 for change in series.changes]
    found = labels.placed(series, marks, left=0, right=width, wordings=chart.WORDINGS[kind])
    assert 0 < len(found) <= len(series.changes)
    assert not [(one, other) for one in found for other in found if one is not other and one.clashes(other)]
    assert all(each.left >= 0 and each.right <= width and each.row < labels.MOST_ROWS for each in found)


def test_a_label_clashes_with_text_and_with_marks_that_run_through_it():
    lower = labels.Label(None, "+6.1%", row=0, mark=100, left=101, right=150)
    assert lower.clashes(lower._replace(mark=140, left=141, right=190)), "text over text"
    assert lower.clashes(lower._replace(row=1, mark=120, left=121, right=170)), "the upper mark runs down through it"
    assert not lower.clashes(lower._replace(row=1, mark=90, left=91, right=140))
    assert not lower.clashes(lower._replace(mark=160, left=161, right=210))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.8, 1.2, ["0.8", "0.9", "1.0", "1.1", "1.2"]),
        (119.0, 131.0, ["120", "122", "124", "126", "128", "130"]),
        (0.0117, 0.0131, ["0.01175", "0.01200", "0.01225", "0.01250", "0.01275", "0.01300"]),
        (0.0, 230.0, ["0", "50", "100", "150", "200"]),
        (1.0, 5.9, ["1", "2", "3", "4", "5"]),
    ],
)
def test_ticks_are_round(low, high, texts):
    assert chart.ticks(low, high) == texts


def test_an_axis_neither_magnifies_noise_nor_is_flattened_by_one_interval():
    (series,) = history.series(nightly({"scan": [1e-3] * 8}, noise=0.001))
    low, high = chart.axis(series.points)
    assert high - low >= chart.LEAST_SPAN * 1e-3
    wide = dataclasses.replace(series.points[3], high=1.0)
    assert chart.axis([*series.points, wide])[1] < 2e-3


def test_elements_hold_text_and_numbers_as_they_are_meant():
    made = node("p", "a < b", node("b", "c"), " & d", None, class_="x", stroke_width=1.0, x=2.345, title=None)
    assert document(made) == (
        '<!doctype html>\n<p class="x" stroke-width="1" x="2.35">a &lt; b<b>c</b> &amp; d</p>\n'
    ).replace("2.35", f"{2.345:.2f}")


def test_the_command_writes_the_page_and_says_the_verdict(tmp_path, capsys):
    folder, output = tmp_path / "baselines", tmp_path / "page.html"
    write(folder, nightly({"scan": [1e-3] * 8}))
    (folder / "broken.json").write_text("{")
    assert main(["report", str(folder), "--output", str(output), "--title", "Ours"]) == 0
    said = f"wrote {output}: No slowdown stands, but nothing was recorded for "
    assert re.fullmatch(re.escape(said) + r"\d+ days; 1 recording could not be read\n", capsys.readouterr().out)
    found = Page(output.read_text())
    assert "Left out" in found.texts
    assert "Ours" in found.texts
    assert sorted(path.name for path in tmp_path.iterdir()) == ["baselines", "page.html"]


def test_what_does_not_tell_of_the_main_branch_is_left_out(tmp_path, capsys):
    folder, output = tmp_path / "baselines", tmp_path / "page.html"
    recordings = nightly({"scan": varying((0, 1e-3), (7, 2e-3), nights=14)})
    dirty = [each._replace(version=dataclasses.replace(each.version, dirty=True)) for each in recordings]
    write(folder, [*recordings[:7], *dirty[7:]])
    assert main(["report", str(folder), "--output", str(output)]) == 0
    said = "No slowdown stands, but nothing was recorded for "
    assert said in capsys.readouterr().out
    assert "7 recordings left out: of a tree with changes" in Page(output.read_text()).text
    assert main(["report", str(folder), "--output", str(output), "--allow-dirty"]) == 0
    assert "1 slowdown stands: +" in capsys.readouterr().out
    output.unlink()
    assert main(["report", str(folder), "--output", str(output), "--main-branch", "release"]) == 64
    assert "nothing is left to show: 7 recordings left out: of the branch main" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "words"), [([], "1 slowdown stands: +3.0% in scan"), (["--effect", "0.05"], "No slowdown stands, but")]
)
def test_the_thresholds_are_those_of_the_device(options, words, tmp_path, capsys):
    write(tmp_path, nightly({"scan": varying((0, 1e-3), (10, 1.03e-3), nights=20)}, noise=0.0))
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "page.html"), *options]) == 0
    assert words in capsys.readouterr().out


@pytest.fixture
def with_comparison(run, tmp_path, monkeypatch, capsys):
    """The page beside a comparison of two revisions, as compare --json writes it."""
    write(tmp_path / "baselines", nightly({"scan": [1e-3] * 8}))

    def with_comparison(*options, **rules):
        result, output = tmp_path / "result.json", tmp_path / "page.html"
        fake(monkeypatch, **rules)
        run("--json", result, *options)
        command = ["report", str(tmp_path / "baselines"), "--comparison", str(result), "--output", str(output)]
        assert main(command) == 0
        return json.loads(result.read_text()), Page(output.read_text())

    return with_comparison


def test_the_last_comparison_is_a_table_under_its_verdict(with_comparison):
    facts, found = with_comparison("--only", "scan", slowness={"head": 1.3})
    assert facts["headline"] in found.texts
    assert "head (commit headhead" in found.text
    assert "against base (commit basebase" in found.text
    (case,) = facts["cases"]
    change = {name: f"{ratio - 1:+.1%}" for name, ratio in case["changes"]["time"].items()}
    assert {change["median"], f"{change['low']} to {change['high']}", "regression"} <= {*found.texts}
    assert 1.25 < case["changes"]["time"]["median"] < 1.35


def test_a_comparison_of_exact_numbers_alone_has_its_verdicts(with_comparison):
    facts, found = with_comparison("--exact", exact={"base": {"launches": 7}, "head": {"launches": 8}})
    assert facts["headline"] in found.texts
    (case,) = facts["cases"]
    assert case["remarks"] == ["launches: 8, was 7"]
    assert {"T: launches: 8, was 7", "regression"} <= {*found.texts}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "is no JSON; name a file that compare --json wrote"),
        ('{"schema": "mvc.regress.compare/1"}', "is not of the format mvc.regress.compare/"),
    ],
)
def test_another_file_than_a_comparison_is_refused(text, message, tmp_path, capsys):
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    command = ["report", str(tmp_path), "--comparison", str(path), "--output", str(tmp_path / "page.html")]
    assert main(command) == 64
    assert message in capsys.readouterr().err


def test_recordings_of_a_branch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", folder=tmp_path)
    arguments = ["report", "--branch", "recordings", "--output", "page.html"]
    assert main(arguments) == 64
    assert "nothing in the branch recordings can be read: it has no recording; fill it with" in capsys.readouterr().err
    with branch.opened("recordings") as opened:
        write(opened.folder, nightly({"scan": [1e-3] * 8}))
        (opened.folder / "broken.json").write_text("{")
        opened.save("eight nights")
    assert main(arguments) == 0
    found = Page((tmp_path / "page.html").read_text())
    assert "scan" in found.texts
    assert "recordings:broken.json is no JSON, or is cut off; record it anew" in found.texts, "and no temporary folder"


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "is no folder"), ("empty", "has no recording"), ("broken", "is no JSON, or is cut off")],
)
def test_nothing_to_show_is_an_error_with_its_remedy(folder, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.json").write_text("{")
    output = tmp_path / "page.html"
    assert main(["report", str(tmp_path / folder), "--output", str(output)]) == 64
    error = capsys.readouterr().err
    assert message in error
    assert "--baselines" in error
    assert not output.exists()
