"""What the passes take out of GPU code, as `bench/offline.py` found it: within limits, and what the budgets hold."""

import itertools
import json

import pytest
from places import ROOT

BENCH = ROOT / "bench"
RESULTS = json.loads((BENCH / "results" / "offline.json").read_text())
ROWS = {(row["variant"], row["dtype"], row["target"]): row for row in RESULTS["rows"]}
COMPARED = list(itertools.product(("T", "S"), ("float16", "bfloat16"), ("sm_80", "sm_90")))


@pytest.mark.parametrize("row", COMPARED, ids="-".join)
def test_launches_and_bytes_are_within_their_share_of_stock(row):
    ours, stock = ROWS[row]["mvc"], ROWS[row]["stock"]
    own = [facts["triton bytes"] + facts["scan bytes"] for facts in (ours, stock)]
    assert ours["launches"] <= 0.74 * stock["launches"]
    assert own[0] <= 0.92 * own[1]
    assert ours["extern bytes"] <= stock["extern bytes"]
    assert row[0] != "T" or stock["launches"] == 200


def test_no_kernel_spills_on_any_card():
    assert {target for _, _, target in ROWS} == {"sm_80", "sm_90", "sm_100"}
    assert [key for key, row in ROWS.items() if row["mvc"]["spills"]] == []


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_results_are_of_what_the_budgets_hold(target):
    """`tests/offline/test_offline_budget.py` holds the budgets against what is generated now."""
    models = json.loads((BENCH / "budgets" / f"{target}.json").read_text())["models"].values()
    found = 0
    for entry in (each for each in models if each["model"]["batch"] == 128 and each["model"]["frozen"]):
        row = ROWS[entry["model"]["variant"], entry["model"]["dtype"], target]["mvc"]
        for name in ("triton bytes", "scan bytes", "extern bytes", "kernels", "largest registers", "spills"):
            assert row[name] == entry[name], name
        assert row["launches"] == sum(entry["launches"].values())
        found += 1
    assert found == 2
