# SPDX-License-Identifier: GPL-2.0-or-later
import io

from relay.cli.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_how_far_it_is_and_is_clean_at_the_end():
    terminal = Terminal()
    with ProgressBar(terminal) as bar:
        bar.show("Sending", 1, 2, "8 KiB acknowledged")
        bar.show("Sending", 1, 2, "too soon")
        bar.show("Sending", 2, 2, "16 KiB acknowledged")
    shown = terminal.getvalue().split("\r\x1b[K")
    assert shown == [
        "",
        f"Sending [{'#' * 15}{'.' * 15}]  50 %  8 KiB acknowledged",
        f"Sending [{'#' * 30}] 100 %  16 KiB acknowledged",
        "",
    ]


def test_a_file_or_pipe_is_not_written_to():
    out = io.StringIO()
    with ProgressBar(out) as bar:
        bar.show("Sending", 1, 2)
        bar.show("Sending", 0, 0)
    assert out.getvalue() == ""
