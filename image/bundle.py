# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay and its locked Python packages as a folder that runs on another machine's Python.

Made here, since the target may have no way to a package registry, no compiler and
no room to build in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from image.run import ROOT, BuildError, digest, run

LOCK = ROOT / ".ci" / "requirements-guest.txt"
#: All but the code that gets into the relay's wheel.
ABOUT = tuple(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))
#: Debian's suite and C library for each Python that the relay runs on.
SUITES = {"3.11": ("bookworm", 36), "3.13": ("trixie", 41)}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
#: Where it is installed, below a folder named by its key.
PREFIX = Path("/opt/mesh-relay")
#: Packages' own tests, and what only a compiler or a type checker reads.
_UNUSED = ("tests", "include", "*.pyi", "*.pxd", "*.h", "*.lib", "*.a")

_LAUNCHER = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, {lib!r})
from relay.cli import main

sys.exit(main())
"""


def make_bundle(arch: str, version: str, cache: Path) -> Path:
    """Return the tar, which holds one folder named by its content's key."""
    if version not in SUITES or arch not in MACHINES:
        raise BuildError(f"Python {version} on {arch} is not served, only {', '.join(SUITES)} on {', '.join(MACHINES)}")
    sources = sorted(path for path in (ROOT / "relay").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    key = digest(
        f"{arch} {version}".encode(),
        Path(__file__).read_bytes(),
        LOCK.read_bytes(),
        *(path.read_bytes() for path in ABOUT),
        *(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() for path in sources),
    )
    tar = cache / f"bundle-{arch}-{version}-{key}.tar"
    if tar.exists():
        return tar
    work = tar.with_suffix(f".part{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    folder = work / key
    lib = folder / "lib"
    shutil.copytree(_packages(arch, version, cache), lib, symlinks=True)
    _install_relay(lib, work)
    launcher = folder / "bin" / "relay"
    launcher.parent.mkdir()
    launcher.write_text(_LAUNCHER.format(lib=str(PREFIX / key / "lib")))
    launcher.chmod(0o755)
    # The launcher comes last: where it is, all of the folder is.
    made = work / "bundle.tar"
    fixed = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--mode=u+rwX,go+rX,go-w"]
    run(["tar", *fixed, "--format=gnu", "-C", work, "-cf", made, f"{key}/lib", f"{key}/bin"])
    made.rename(tar)
    shutil.rmtree(work)
    return tar


def _packages(arch: str, version: str, cache: Path) -> Path:
    """The locked packages for that machine, unpacked."""
    key = digest(f"{arch} {version}".encode(), Path(__file__).read_bytes(), LOCK.read_bytes())
    ready = cache / f"packages-{arch}-{version}-{key}"
    if ready.exists():
        return ready
    machine = MACHINES[arch]
    # pip does not know by itself that a newer C library runs what was built for an older one.
    platforms = [f"--platform=manylinux2014_{machine}"]
    platforms += [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(17, SUITES[version][1] + 1)]
    part = ready.with_suffix(f".part{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    # Not in the clean environment: how this machine reaches its registry is in there.
    command = [
        *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--require-hashes"),
        *("--no-deps", "--no-compile", "--only-binary=:all:", "--implementation=cp", f"--python-version={version}"),
        *platforms,
        *("--target", str(part), "-r", str(LOCK)),
    ]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise BuildError("the Python packages could not be fetched; pip's message stands above")
    shutil.rmtree(part / "bin", ignore_errors=True)
    for pattern in _UNUSED:
        for path in sorted(part.rglob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    part.rename(ready)
    return ready


def _install_relay(lib: Path, work: Path) -> None:
    """Build this clone's wheel and unpack it; a wheel without scripts of its own is a zip of what goes there."""
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", work]
    run(command, cwd=ROOT, environ={"SOURCE_DATE_EPOCH": "315532800"})
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(lib)
    wheel.unlink()
