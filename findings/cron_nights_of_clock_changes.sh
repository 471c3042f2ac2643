#!/usr/bin/env bash
# croniter 7.0.0, cronsim 2.8, cron-converter 2.0.2, pycron 3.3.0 with tzdata 2026.6 from PyPI: two nightly expressions over
# the two nights in which Berlin's clocks change. A service asks such a library when its backup is due.
# Guessed: each gives one time a night for "30 2 * * *", also in the night without 02:30 and in that with two of them, as
# Debian's cron runs it once. And "*/30 2 * * *" (02:00 and 02:30) differs in nothing but the number of times.
# Seen: no two agree. In the night without 02:30 croniter and cronsim give 03:00. cron-converter gives 02:30 with the offset
# of winter, a time that no clock shows, and pycron never matches. In the night with two, croniter and pycron give both.
# With */30, cronsim leaves the spring night out, croniter has one time in it, and in autumn both have four.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q install croniter==7.0.0 cronsim==2.8 cron-converter==2.0.2 pycron==3.3.0 tzdata==2026.6 >/dev/null 2>&1
cat >nights.py <<'END'
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from itertools import takewhile
from zoneinfo import ZoneInfo
import pycron
from cron_converter import Cron
from croniter import croniter
from cronsim import CronSim

BERLIN = ZoneInfo("Europe/Berlin")

def repeated(function):
    while True:
        yield function()

def minutes(expression, start):
    """What a loop does that asks pycron every minute."""
    moment = start.astimezone(timezone.utc)
    while True:
        moment += timedelta(minutes=1)
        if pycron.is_now(expression, moment.astimezone(BERLIN)):
            yield moment.astimezone(BERLIN)

def sources(expression, start):
    following = croniter(expression, start)
    schedule = Cron(expression).schedule(start)
    yield "croniter", repeated(lambda: following.get_next(datetime))
    yield "cronsim", CronSim(expression, start)
    yield "cron-converter", repeated(schedule.next)
    yield "pycron", minutes(expression, start)

for name in ("croniter", "cronsim", "cron-converter", "pycron", "tzdata"):
    print("#", name, version(name))
for expression in ("30 2 * * *", "*/30 2 * * *"):
    for day in (datetime(2026, 3, 28, 22, tzinfo=BERLIN), datetime(2026, 10, 24, 22, tzinfo=BERLIN)):
        for name, times in sources(expression, day):
            night = takewhile(lambda time: time < day + timedelta(hours=12), times)
            shown = " ".join(time.strftime("%H:%M%z") for time in night) or "never"
            print(f"{expression}, night to {day + timedelta(days=1):%d %B}: {name} {shown}")
END
venv/bin/python nights.py | tee seen
diff <(grep -v '^#' seen) - <<'END'
30 2 * * *, night to 29 March: croniter 03:00+0200
30 2 * * *, night to 29 March: cronsim 03:00+0200
30 2 * * *, night to 29 March: cron-converter 02:30+0100
30 2 * * *, night to 29 March: pycron never
30 2 * * *, night to 25 October: croniter 02:30+0200 02:30+0100
30 2 * * *, night to 25 October: cronsim 02:30+0200
30 2 * * *, night to 25 October: cron-converter 02:30+0200
30 2 * * *, night to 25 October: pycron 02:30+0200 02:30+0100
*/30 2 * * *, night to 29 March: croniter 03:00+0200
*/30 2 * * *, night to 29 March: cronsim never
*/30 2 * * *, night to 29 March: cron-converter 02:00+0100 02:30+0100
*/30 2 * * *, night to 29 March: pycron never
*/30 2 * * *, night to 25 October: croniter 02:00+0200 02:30+0200 02:00+0100 02:30+0100
*/30 2 * * *, night to 25 October: cronsim 02:00+0200 02:30+0200 02:00+0100 02:30+0100
*/30 2 * * *, night to 25 October: cron-converter 02:00+0200 02:30+0200
*/30 2 * * *, night to 25 October: pycron 02:00+0200 02:30+0200 02:00+0100 02:30+0100
END
