"""The log of a process that serves requests: what is written, what is dropped, and that nothing waits."""

import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.log_output import MAX_WAITING_BYTES, LogOutput
from daemon.runtime.logging import EXIT_WAIT_S

PIPE_BYTES = 4096  # the smallest there is
LINE = re.compile(r"(?:line (\d+) x*|missing (\d+))\n")


@contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe, the reading one non-blocking."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(reader, False)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def read(reader: int) -> bytes:
    """What is in the pipe now."""
    try:
        return os.read(reader, PIPE_BYTES)
    except BlockingIOError:
        return b""


def count_line(count: int) -> bytes:
    """What stands where lines are missing."""
    return b"missing %d\n" % count


# Each step: the sizes of lines to write, and how many bytes' worth of reads follow.
STEPS = st.lists(st.tuples(st.lists(st.integers(0, 20_000), max_size=8), st.integers(0, 6)), max_size=20)


@given(STEPS)
def test_every_line_is_in_the_log_or_counted_where_it_is_missing(steps: list[tuple[list[int], int]]) -> None:
    """However lines come and however slowly they are read: each is whole and in its place, or it is one of those that
    a line in the same place counts."""
    with small_pipe() as (reader, writer):
        output = LogOutput(writer, count_line)
        written, text = 0, b""
        for sizes, reads in steps:
            for size in sizes:
                output.write(b"line %d %s\n" % (written, b"x" * size))
                written += 1
            text += b"".join(read(reader) for _ in range(reads))
        deadline_s = time.monotonic() + 60.0
        while not output.finish(0.0):
            assert time.monotonic() < deadline_s
            text += read(reader)
        while more := read(reader):
            text += more
        expected = missing = 0
        for line in text.decode().splitlines(keepends=True):
            found = LINE.fullmatch(line)
            assert found, line[:80]
            if found[2]:
                missing += int(found[2])
                expected += int(found[2])
            else:
                assert int(found[1]) == expected
                expected += 1
        assert expected == written
        assert missing == output.dropped


def test_a_reader_that_comes_late_gets_the_count_although_no_line_follows() -> None:
    """The line that counts the missing ones is written as soon as there is room, by itself."""
    with small_pipe() as (reader, writer):
        output = LogOutput(writer, count_line)
        lines = 2 * (MAX_WAITING_BYTES + PIPE_BYTES) // 64
        for number in range(lines):
            output.write(b"line %-58d\n" % number)
        text, deadline_s = b"", time.monotonic() + 60.0
        while b"missing" not in text:
            assert time.monotonic() < deadline_s
            text += read(reader)
        assert output.dropped == int(text.split()[-1])
        assert len(text.splitlines()) - 1 + output.dropped == lines


# What a process may write, in all ways there are, several times of what the pipe and the memory hold.
EVERY_WAY = """
import asyncio, faulthandler, logging, sys, warnings
import structlog
from daemon.runtime import logging as logs
logs.configure_serving("text", "DEBUG")
warnings.simplefilter("always")
async def fail_unseen():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
for number in range(300):
    structlog.get_logger().info("structlog " + "." * 300)
    logging.getLogger("aiohttp.server").error("logging " + "." * 300)
    warnings.warn("warning " + "." * 300)
    print("print " + "." * 300)
    print("print to standard error " + "." * 300, file=sys.stderr)
    faulthandler.dump_traceback(file=sys.stderr)
    asyncio.run(fail_unseen())
raise SystemError("uncaught")
"""


def test_no_way_to_write_waits_for_the_reader_nor_does_the_end_of_the_process() -> None:
    """A process whose output is not read makes all its writes and ends by itself, in little more than the time it
    may wait at its end."""
    process = subprocess.Popen([sys.executable, "-c", EVERY_WAY], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.wait(EXIT_WAIT_S + 60.0) == 1
    finally:
        process.kill()
        process.communicate()


BURST = """
import structlog
from daemon.runtime import logging as logs
logs.EXIT_WAIT_S = 60.0
logs.configure_serving("text", "INFO")
for number in range(1000):
    structlog.get_logger().info("x" * 60, number=number)
print("printed")
raise SystemError("uncaught")
"""


def test_a_process_that_ends_has_written_all_its_lines() -> None:
    """More than the pipe holds, then an uncaught error: a reader that comes a little later gets all of it, in order."""
    process = subprocess.Popen([sys.executable, "-c", BURST], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(0.2)
    lines = (first + process.stdout.read()).decode().splitlines()
    process.stdout.close()
    assert process.wait(60) == 1
    assert [line.partition("number=")[2] for line in lines[:1000]] == [str(number) for number in range(1000)]
    assert lines[1000] == "printed"
    assert lines[-1] == "SystemError: uncaught"
