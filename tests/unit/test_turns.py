"""Turns of the batches of a continuous run."""

import threading
import time

import pytest
from profilestream.base.turns import Turns


def _take(turns: Turns, seconds: float, stop_requested: threading.Event) -> float:
    """Run a batch of these seconds; returns how long it waited."""
    with turns.turn(stop_requested) as waited:
        time.sleep(seconds)
    return waited


@pytest.mark.parametrize(("share", "pause"), [(1.0, 0.0), (0.5, 0.2), (0.25, 0.6)])
def test_a_batch_waits_until_the_earlier_one_took_its_share_of_the_time(share: float, pause: float) -> None:
    turns, stop_requested = Turns(max_busy_share=share), threading.Event()
    assert _take(turns, 0.2, stop_requested) < 0.05
    assert _take(turns, 0.0, stop_requested) == pytest.approx(pause, abs=0.1)


def test_the_pause_ends_when_a_stop_is_requested() -> None:
    turns, stop_requested = Turns(max_busy_share=0.001), threading.Event()
    _take(turns, 0.1, stop_requested)
    threading.Timer(0.1, stop_requested.set).start()
    assert 0.05 < _take(turns, 0.0, stop_requested) < 2.0


def test_a_failed_batch_counts_too() -> None:
    turns, stop_requested = Turns(max_busy_share=0.5), threading.Event()
    with pytest.raises(ValueError, match="failed"), turns.turn(stop_requested):
        time.sleep(0.2)
        raise ValueError("failed")
    assert _take(turns, 0.0, stop_requested) > 0.1


def test_batches_of_queries_with_the_same_slots_do_not_run_at_the_same_time() -> None:
    slots, stop_requested = threading.Semaphore(1), threading.Event()
    running: list[Turns] = []
    most = 0

    def batch(turns: Turns) -> None:
        nonlocal most
        with turns.turn(stop_requested):
            running.append(turns)
            most = max(most, len(running))
            time.sleep(0.05)
            running.pop()

    threads = [threading.Thread(target=batch, args=(Turns(slots),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_pause_does_not_occupy_a_slot() -> None:
    slots, stop_requested = threading.Semaphore(1), threading.Event()
    limited = Turns(slots, 0.01)
    _take(limited, 0.1, stop_requested)
    waiting = threading.Thread(target=_take, args=(limited, 0.0, stop_requested))
    waiting.start()
    assert _take(Turns(slots), 0.0, stop_requested) < 1.0
    stop_requested.set()
    waiting.join()
