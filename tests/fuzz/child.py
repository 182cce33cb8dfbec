# SPDX-License-Identifier: GPL-2.0-or-later
"""One target under libFuzzer: `python -m tests.fuzz.child TARGET [libFuzzer's arguments]`. Never returns."""

import sys

import atheris

with atheris.instrument_imports(include=["relay", "tests.fuzz.targets", "tests.fuzz.plain", "tests.fuzz.relay"]):
    from tests.fuzz import targets


def main():
    name = sys.argv.pop(1)
    run = targets.planted if name == "planted" else targets.TARGETS[name].run
    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
