# SPDX-License-Identifier: GPL-2.0-or-later
"""What a booted image needs besides itself."""

import subprocess
from dataclasses import fields
from pathlib import Path

from tests.guest.uml import ROOT, Parts


def find_kernel():
    """The kernel, and what runs the air for Bluetooth: everything else is in the image."""
    kernel, air = (_shown(".ci/kernel"), _shown(".ci/venv", "lab"))
    nothing = {field.name: Path("/nonexistent") for field in fields(Parts)}
    return Parts(**nothing | {"kernel": kernel, "air_python": air / "bin" / "python"})


def _shown(script, *arguments):
    shown = subprocess.run([ROOT / script, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(shown.strip())
