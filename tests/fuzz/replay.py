# SPDX-License-Identifier: GPL-2.0-or-later
"""Every input of the corpus, once, without a fuzzer."""

from pathlib import Path

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def inputs(name):
    """The committed inputs of a target, in a fixed order."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def main():
    for name, target in TARGETS.items():
        for data in inputs(name):
            target.run(data)


if __name__ == "__main__":
    main()
