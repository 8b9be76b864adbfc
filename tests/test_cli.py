"""What the commands share: exit statuses, types of arguments, numbers for JSON."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from mvc import cli
from mvc.errors import UserError


def raising(error):
    def run():
        raise error

    return run


def test_json_holds_names_that_are_no_text(tmp_path):
    facts = {"path": "caf\udce9 thé.png"}
    cli.write_json(facts, str(tmp_path / "a.json"))
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == facts
    assert r"caf\udce9 thé" in text


def test_exit_statuses(capsys):
    assert cli.exit_status(lambda: 3) == 3
    assert cli.exit_status(raising(UserError("n is 0; use 1"))) == 2
    assert cli.exit_status(raising(UserError("n is 0; use 1")), unusable=64) == 64
    assert cli.exit_status(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.splitlines() == ["error: n is 0; use 1"] * 2 + ["interrupted"]
    with pytest.raises(ZeroDivisionError):
        cli.exit_status(raising(ZeroDivisionError()))


@pytest.mark.parametrize(("reader", "status"), [("head -c 2", 141), ("cat", 3)])
def test_the_status_where_the_output_is_not_read_or_not_encodable(reader, status):
    script = "import sys\nfrom mvc import cli\nsys.exit(cli.exit_status(lambda: print('é' * 200000) or 3))"
    command = f'"{sys.executable}" -c "{script}" | {reader}; echo " ${{PIPESTATUS[0]}}"'
    encoding = {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(["bash", "-c", command], env={**os.environ, **encoding}, capture_output=True, text=True)
    assert done.stdout.startswith("\\x")
    assert done.stdout.split()[-1] == str(status)
    assert done.stderr == ""


@pytest.mark.parametrize(("name", "word"), [("SIGTERM", "terminated"), ("SIGHUP", "hung up")])
def test_signals_clean_up_as_an_interrupt_does(name, word, capsys):
    number, cleaned = getattr(signal, name), []

    def run():
        try:
            os.kill(os.getpid(), number)
            pytest.fail("went on")
        finally:
            os.kill(os.getpid(), number)  # a second one, for the whole group
            cleaned.append(name)

    assert cli.exit_status(run) == 128 + number
    assert cleaned == [name]
    assert capsys.readouterr().err == f"{word}\n"
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize(("name", "word"), [("SIGINT", "interrupted"), ("SIGTERM", "terminated")])
def test_signals_in_a_callback_of_a_weak_reference_are_not_lost(name, word, capsys):
    class Referent:
        pass

    def run():
        referent = Referent()
        reference = weakref.ref(referent, lambda _: signal.raise_signal(number))
        del referent
        assert reference() is None
        time.sleep(60)
        pytest.fail("went on")

    number = getattr(signal, name)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in background
    start = time.monotonic()
    try:
        assert cli.exit_status(run) == 128 + number
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 60, "it did not wake"
    assert capsys.readouterr().err == f"{word}\n"


def test_other_errors_in_such_callbacks_are_printed(monkeypatch):
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)

    class Broken:
        def __del__(self):
            raise ZeroDivisionError

    def run():
        Broken()
        return 0

    assert cli.exit_status(run) == 0
    (seen,) = lost
    assert seen.exc_type is ZeroDivisionError
    assert sys.unraisablehook == lost.append


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_signals_that_have_a_meaning_keep_it(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        assert cli.exit_status(lambda: os.kill(os.getpid(), signal.SIGHUP) or 5) == 5
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_alone():
    found, hook = [], sys.unraisablehook

    def run():
        assert sys.unraisablehook is hook
        return 4

    thread = threading.Thread(target=lambda: found.append(cli.exit_status(run)))
    thread.start()
    thread.join()
    assert found == [4]


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (cli.positive, "1", 1),
        (cli.positive, "0", "'0' is not a whole number of at least 1"),
        (cli.positive, "-3", "not a whole number"),
        (cli.positive, str(2**63), "more than 2^63 - 1"),
        (cli.seed, "0", 0),
        (cli.seed, str(2**63), "not a whole number from 0 to 2^63 - 1"),
        (cli.side, "32", 32),
        (cli.side, "31", "'31' is not a whole number from 32 to 32768"),
        (cli.side, "32769", "not a whole number from 32 to 32768"),
        (cli.name, "a", "a"),
        (cli.name, "", "the name is empty"),
    ],
)
def test_arguments_are_checked(kind, text, value):
    if isinstance(value, str) and text != value:
        with pytest.raises(argparse.ArgumentTypeError) as refused:
            kind(text)
        assert value in str(refused.value)
    else:
        assert kind(text) == value


def test_json_has_no_number_that_is_not_finite():
    assert [cli.finite(each) for each in (1.5, math.nan, math.inf)] == [1.5, None, None]
