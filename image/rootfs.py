# SPDX-License-Identifier: GPL-2.0-or-later
"""From the base to a root file system that is the same whoever builds it, and when."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from image.run import CLEAN_ENVIRONMENT, INSIDE, ROOT, BuildError, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANSIBLE = ROOT / "ansible"
#: Folders that hold nothing in the image; at run time a file system is mounted on each.
_EMPTIED = ("boot", "dev", "proc", "run", "sys", "tmp", "var")
#: Made by packages' scripts, with the time or the machine in them, or of no use on a root that never changes.
_REMOVED = (
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/ld.so.cache~",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "etc/hostname~",
    "etc/apt",
    "etc/resolv.conf.orig",
    "usr/lib/udev/hwdb.d",
    "root/.ansible",
)
#: Third field of /etc/shadow: the day of the last change, counted from 1970.
_CHANGED_DAY = re.compile(r"^([^:]*:[^:]*:)\d+(?=:)", re.MULTILINE)


def unpack(tar: Path, root: Path) -> None:
    """Unpack the base."""
    root.mkdir()
    run(["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", root, "-xf", tar])


def attach(root: Path) -> None:
    """Mount what package scripts and Ansible's modules expect."""
    run(["mount", "--bind", root, root])
    run(["mount", "-t", "proc", "proc", root / "proc"])
    run(["mount", "-t", "sysfs", "-o", "ro", "sysfs", root / "sys"])
    # Not this machine's: whatever goes wrong in there, its devices are out of reach.
    run(["mount", "-t", "tmpfs", "tmpfs", root / "dev"])
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        (root / "dev" / name).chmod(0o666)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (root / "dev" / name).symlink_to(target)
    run(["mount", "-t", "tmpfs", "tmpfs", root / "run"])
    run(["mount", "-t", "tmpfs", "tmpfs", root / "tmp"])


def configure(root: Path, cache: Path, work: Path) -> str:
    """Apply the playbook to an unpacked and attached root; return Ansible's output."""
    settings = {
        "ansible_host": root,
        "relay__python": sys.executable,
        "relay__cache": cache,
    }
    command: list[str | Path] = [
        *(sys.executable, "-m", "ansible", "playbook"),
        *(ANSIBLE / "site.yml", "--inventory", ANSIBLE / "image.yml"),
        *("--extra-vars", " ".join(f"{name}={value}" for name, value in settings.items())),
    ]
    environ = {
        **os.environ,
        **CLEAN_ENVIRONMENT,
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_HOME": str(work / "ansible"),
        # systemctl then writes links and asks no running systemd.
        "SYSTEMD_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"the playbook failed:\n{done.stdout[-8000:]}")
    return done.stdout


def assert_unchanged(output: str) -> None:
    """Fail if the playbook changed anything, by what Ansible printed."""
    recap = output[output.rindex("PLAY RECAP") :]
    if "changed=0 " not in recap:
        changed = re.findall(r"^TASK \[(.*)\] \*+\n(?:[a-z]+: .*\n)*?changed: ", output, re.MULTILINE)
        raise BuildError(f"applied again, the playbook changed: {', '.join(changed)}\n{recap}")


def detach(root: Path) -> None:
    """Unmount everything again."""
    run(["umount", "--recursive", root])


def dpkg_status(root: Path) -> str:
    """What dpkg knows about the installed packages."""
    return (root / "var/lib/dpkg/status").read_text()


def scrub(root: Path, tools_tree: Path, *, epoch: int) -> None:
    """Remove what differs between builds and what a read-only root has no use for; compile all Python."""
    for name in _EMPTIED:
        shutil.rmtree(root / name)
        (root / name).mkdir()
        (root / name).chmod(0o1777 if name == "tmp" else 0o755)
    for name in _REMOVED:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    # Present and empty: systemd then makes one in memory for each boot.
    (root / "etc/machine-id").write_text("")
    shadow = root / "etc/shadow"
    shadow.write_text(_CHANGED_DAY.sub(rf"\g<1>{epoch // 86400}", shadow.read_text()))
    # systemd never lets the clock be before the time of this file.
    (root / "usr/lib/clock-epoch").touch()
    for cached in sorted(root.rglob("__pycache__")):
        shutil.rmtree(cached)
    _compile(root, tools_tree)


def _compile(root: Path, tree: Path) -> None:
    """Compile all Python ahead, by the same Python in the tree of tools, which runs on this machine.

    What is compiled is believed without a look at the sources' times (PEP 552,
    "unchecked"): nothing changes on a read-only root, and nothing can be compiled there.
    """
    script = (
        'mount --bind "$1" "$2/cache"; tree=$2; shift 2; export PYTHONHASHSEED=0; '
        'exec chroot "$tree" python3 -m compileall -q -f -j 1 --invalidation-mode unchecked-hash -s /cache -p / "$@"'
    )
    folders = [str(INSIDE / folder) for folder in _python_folders(root)]
    run(["unshare", "--mount", "--propagation", "private", "bash", "-ec", script, "compile", root, tree, *folders])


def _python_folders(root: Path) -> list[str]:
    folders = [*root.glob("usr/lib/python3*"), *root.glob("opt/mesh-relay/*/lib")]
    return sorted(str(folder.relative_to(root)) for folder in folders if not folder.is_symlink())


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield root / folder / name
    yield root


def assert_clean(root: Path) -> None:
    """Fail on what must never be published: a password, a host key, a world-writable file."""
    for line in (root / "etc/shadow").read_text().splitlines():
        name, password, *_ = line.split(":")
        if not password or password[0] not in "!*":
            raise BuildError(f"the account {name} has a password")
    for path in _walk(root):
        mode = path.lstat().st_mode
        if mode & stat.S_IWOTH and not stat.S_ISLNK(mode) and not mode & stat.S_ISVTX:
            raise BuildError(f"anybody may write {path.relative_to(root)}")
