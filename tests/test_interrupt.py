"""Ctrl-C waits for what must not be left half done."""

import signal
import threading

import pytest
from conftest import tiny_network

from utils.engine import fit
from utils.interrupt import undisturbed


def test_an_interrupt_takes_effect_at_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_in_another_thread_is_saved(tiny, recipe, tmp_path):
    training = threading.Thread(target=fit, args=(tiny_network(), tiny, recipe), kwargs={"out": tmp_path})
    training.start()
    training.join()
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + recipe.epochs
