"""Which signals ask a run to stop, and what is left of them afterwards."""

import signal

import pytest

from cluster.process.stop_flag import StopFlag


@pytest.mark.parametrize(
    ("number", "requested"), [(signal.SIGHUP, False), (signal.SIGUSR1, True)], ids=["under nohup", "in a SLURM job"]
)
def test_of_signals_that_were_ignored_a_hangup_stays_so_and_a_warning_stops_the_run(
    number: signal.Signals, requested: bool
) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopFlag() as stop:
            stop.arm()
            signal.raise_signal(number)
        assert stop.requested == requested
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_hangup_that_is_not_ignored_stops_the_run() -> None:
    with StopFlag() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert stop.reason == "SIGHUP"
