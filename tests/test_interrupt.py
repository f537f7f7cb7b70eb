"""Ctrl-C waits for what must not be left half done."""

import signal
import subprocess
import sys
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


@pytest.mark.skipif(sys.platform == "win32", reason="no process there ends by a signal")
def test_an_interrupt_that_ends_the_process_ends_it_after_the_block():
    program = """if True:
        import signal
        from utils.interrupt import undisturbed
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            print("all of it", flush=True)
        print("and more", flush=True)
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "all of it\n")


def test_a_run_in_another_thread_is_saved(tiny, recipe, tmp_path):
    training = threading.Thread(target=fit, args=(tiny_network(), tiny, recipe), kwargs={"out": tmp_path})
    training.start()
    training.join()
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + recipe.epochs
