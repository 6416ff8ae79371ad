"""Writes events at a rate, as one file a second or as records of a topic. It runs in a process of its own.

Each line of standard input is a rate (events/s) and a number of seconds. After each second it prints a JSON object:
`second` (from 0), `at` (when the lines had arrived, in seconds since 1970), `lines` and `position` (of the first line,
as in `events`). It ends with its input.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.shop_events import Lines, LogLines, ShopEvents

TOPIC = "shop"


class FolderTarget:
    """A folder; a file appears with all its lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, second: int, lines: list[str]) -> str:
        """Write the lines of a second; returns the position of the first one."""
        name = f"{second:06}.jsonl"
        temporary = self._folder / f".{name}.tmp"
        temporary.write_text("\n".join(lines))
        temporary.rename(self._folder / name)
        return f"{name}:1"


class TopicTarget:
    """The topic `shop`; the key of a record is its number, so each partition gets a part of each second."""

    def __init__(self, servers: str) -> None:
        from confluent_kafka import Producer

        options = {"bootstrap.servers": servers, "linger.ms": 50, "queue.buffering.max.messages": 1_000_000}
        self._producer, self._position = Producer(options), ""

    def write(self, second: int, lines: list[str]) -> str:
        """Write the lines of a second; returns the position of the first one."""
        for number, line in enumerate(lines):
            self._producer.produce(TOPIC, line, key=str(number), on_delivery=None if number else self._delivered)
        self._producer.flush()
        return self._position

    def _delivered(self, error: Any, record: Any) -> None:
        self._position = f"{record.topic()}/{record.partition()}/{record.offset()}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="a folder, or host:port of a broker")
    parser.add_argument("--log", type=Path, help="replay this log instead of generating events")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    target = FolderTarget(Path(args.target)) if args.target.startswith("/") else TopicTarget(args.target)
    events: Lines = LogLines(args.log) if args.log else ShopEvents(args.seed)
    second = 0
    for command in sys.stdin:
        rate, seconds = map(int, command.split())
        started = time.time()
        for number in range(seconds):
            time.sleep(max(0.0, started + number - time.time()))
            if not (lines := events.next_second(time.time(), rate)):
                return 0
            position = target.write(second, lines)
            report = {"second": second, "at": time.time(), "lines": len(lines), "position": position}
            print(json.dumps(report), flush=True)
            second += 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
