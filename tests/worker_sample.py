"""Stands in for autobatch.worker in the launcher's tests: it does what $PROGRAM says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from autobatch import protocol


def main(read_fd: int, write_fd: int) -> None:
    """Run the program, with a channel, like `worker.main`."""
    channel = protocol.Channel(read_fd, write_fd)

    def say(stage: object) -> None:
        channel.send(protocol.Stage(stage=str(stage)))

    names = {
        "channel": channel,
        "os": os,
        "protocol": protocol,
        "read_fd": read_fd,
        "say": say,
        "signal": signal,
        "subprocess": subprocess,
        "sys": sys,
        "time": time,
        "write_fd": write_fd,
    }
    exec(os.environ["PROGRAM"], names)
