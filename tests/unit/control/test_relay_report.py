# SPDX-License-Identifier: GPL-2.0-or-later
"""A report in the place of whatever has its name: on a stick that a stranger prepared, or of a device."""

import os

import pytest

from relay.control.relay_report import REPORT, write_report


def test_a_report_is_there_whole_or_the_one_before_it(tmp_path):
    path = tmp_path / REPORT
    write_report(path, b"first")
    assert path.read_bytes() == b"first"
    # No room: a folder is where the new one would be written.
    (tmp_path / f".{REPORT}.new").mkdir()
    with pytest.raises(OSError, match=r"directory|permitted"):
        write_report(path, b"second")
    assert path.read_bytes() == b"first"


def test_what_has_its_name_is_not_opened_waited_for_or_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / REPORT
    victim.write_text("mine")
    for number, make in enumerate([lambda p: p.symlink_to(victim), os.mkfifo]):
        for place in (path, tmp_path / f".{REPORT}.new"):
            place.unlink(missing_ok=True)
            make(place)
        text = b"report %d" % number
        write_report(path, text)
        assert path.is_file()
        assert not path.is_symlink()
        assert path.read_bytes() == text
    assert victim.read_text() == "mine"
    assert sorted(found.name for found in tmp_path.iterdir()) == [REPORT, "victim"]
