#!/usr/bin/env python3
"""The long run of the crash test: a broker of a debug build, killed hundreds of times, and the report in
docs/durability.md. Three starts in four are with durability fsync, the others with async, which promises the same to
whoever kills a process.

The test is the one that runs with all others, `crash::` in tests/it; there it kills fewer times.

  benches/crash.py                     500 kills; the report goes into the page
  benches/crash.py --kills 50 --dry    a short one; prints its report
  benches/crash.py --seed 7            what the run does and when is decided by the seed, as far as it is for us to decide
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEST = "crash::nothing_acknowledged_is_lost_however_often_the_broker_is_killed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--dry", action="store_true", help="leave the page alone")
    flags = parser.parse_args()
    environment = dict(os.environ, MQTT_CRASH_KILLS=str(flags.kills))
    if flags.seed is not None:
        environment["MQTT_CRASH_SEED"] = str(flags.seed)
    if not flags.dry:
        environment["MQTT_CRASH_PAGE"] = str(ROOT / "docs" / "durability.md")
    command = ["cargo", "test", "--test", "it", TEST, "--", "--exact", "--nocapture"]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
