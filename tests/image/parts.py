# SPDX-License-Identifier: GPL-2.0-or-later
"""What a booted image needs besides itself."""

import subprocess
from dataclasses import fields
from pathlib import Path

from tests.guest.uml import ROOT, Parts


def find_kernel():
    """The kernel alone: everything else is in the image."""
    shown = subprocess.run([ROOT / ".ci" / "kernel"], check=True, stdout=subprocess.PIPE, text=True).stdout
    nothing = {field.name: Path("/nonexistent") for field in fields(Parts)}
    return Parts(**nothing | {"kernel": Path(shown.strip())})
