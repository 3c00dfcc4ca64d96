"""When cron expressions are due, by means that share nothing with the platform's: cronsim says which times of the wall clock an
expression names, zoneinfo and tzdata say what clocks show, and the rule of daylight saving (ARCHITECTURE.md, "Schedules") is
applied here, where it can be read.

Usage: cron_oracle.py REQUEST. The file holds JSON: {"expressions": [...], "windows": [{"zone", "after", "until", "max"}, ...]}
with times in seconds since 1970. Prints one line of JSON for each expression: for each window the times behind `after` and not
behind `until`, the first `max` of them.
"""

import json
import sys
from datetime import datetime, timedelta, timezone
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim

SECOND = timedelta(seconds=1)
# Longer than any gap or fold of a clock, and than what lies between a window and the change that reaches into it.
MARGIN = 3 * 3600


def offset(zone, second):
    """What clocks in the zone show more than UTC, in seconds."""
    return int(datetime.fromtimestamp(second, timezone.utc).astimezone(zone).utcoffset().total_seconds())


def segments(zone, start, end):
    """The stretches in which clocks run on evenly: (begin, end, offset), the end not within."""
    begin, found = start, []
    while begin < end:
        here = offset(zone, begin)
        changed = next((second for second in range(begin + 3600, end + 3600, 3600) if offset(zone, second) != here), None)
        if changed is None:
            found.append((begin, end, here))
            break
        low, high = changed - 3600, changed
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(zone, middle) == here else (low, middle)
        found.append((begin, high, here))
        begin = high
    return found


def wall(second):
    """The wall clock that shows so many seconds since 1970."""
    return datetime(1970, 1, 1) + timedelta(seconds=second)


def named(expression, start, end):
    """The times that an expression names on a wall clock that runs from one time to another, the end not within."""
    for time in CronSim(expression, wall(start) - SECOND):
        second = int((time - datetime(1970, 1, 1)).total_seconds())
        if second >= end:
            return
        yield second


def due(expression, stretches, after):
    """When an expression is due behind a time, in order."""
    fields = expression.split()
    names_one_time = all(field.isdigit() for field in fields[: len(fields) - 3])
    shown_until = None
    for begin, end, here in stretches:
        first = begin + here
        if names_one_time and shown_until is not None:
            # Passed over by the clock: due at the first moment behind the gap.
            if begin > after and any(True for _ in named(expression, shown_until, first)):
                yield begin
        for second in named(expression, max(first, after + here + 1), end + here):
            # Shown for the second time: it was due at the first.
            if not (names_one_time and shown_until is not None and second < shown_until):
                yield second - here
        shown_until = end + here


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    known = {}

    def stretches(window):
        key = (window["zone"], window["after"], window["until"])
        if key not in known:
            known[key] = segments(ZoneInfo(window["zone"]), window["after"] - MARGIN, window["until"] + 1)
        return known[key]

    for expression in request["expressions"]:
        times = []
        for window in request["windows"]:
            times.append(list(islice(due(expression, stretches(window), window["after"]), window["max"])))
        print(json.dumps(times))


main()
