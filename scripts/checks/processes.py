"""Starts and ends the programs that a check uses."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time


class Failure(Exception):
    """The failure of a check, in one sentence."""


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def clean_environment():
    """Returns the environment without settings of Tandem."""
    return {name: value for name, value in os.environ.items() if name == "TANDEM_CACHE" or not name.startswith(("TANDEM_", "OTEL_"))}


@contextlib.contextmanager
def running(name, command, log, environment=None, cwd=None, patience_s=30):
    """A child process that is ended with the block, however the block ends."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=clean_environment() if environment is None else environment, cwd=cwd, start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                print(f"{name} did not end within {patience_s} s of SIGINT", file=sys.stderr)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for_line(name, start, process, log, deadline_s):
    """Waits for a line of the log, and returns the whole log."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        text = log.read_text(errors="replace")
        if any(line.startswith(start) for line in text.splitlines()):
            return text
        if process.poll() is not None:
            raise Failure(f"{name} ended with status {process.returncode}:\n{tail(log)}")
        time.sleep(0.2)
    raise Failure(f"{name} did not say {start!r} within {deadline_s} s:\n{tail(log)}")


def tail(log, lines=30):
    return "\n".join(pathlib.Path(log).read_text(errors="replace").splitlines()[-lines:])
