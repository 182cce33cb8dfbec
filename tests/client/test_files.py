# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys are the user's alone, and are never lost to a crash or a second command."""

import json
import os
import pwd
import secrets
import stat
from pathlib import Path

import pytest

from relay.client import files
from relay.client.errors import PrivateFileError
from relay.client.files import config_folder, create_private, data_folder, read_private, replace_private
from relay.client.identity import Identity
from relay.config.paths import state_directory


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_follow_the_xdg_variables_and_ignore_relative_ones(tmp_path):
    assert config_folder({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "mesh-relay"
    assert config_folder({"XDG_CONFIG_HOME": "here", "HOME": "/home/z"}).parts[1:] == (
        "home",
        "z",
        ".config",
        "mesh-relay",
    )
    assert data_folder({"HOME": "/home/z"}).parts[-3:] == (".local", "share", "mesh-relay")
    # An empty HOME was the root of the file system, and a relative one wherever the command was called.
    own = Path(pwd.getpwuid(os.getuid()).pw_dir)
    for odd in ({}, {"HOME": ""}, {"HOME": "here"}):
        assert data_folder(odd) == own / ".local" / "share" / "mesh-relay"
        assert state_directory(odd) == own / ".local" / "state" / "mesh-relay"


def test_an_identity_is_saved_for_the_user_alone_and_comes_back(tmp_path):
    folder = tmp_path / "config" / "mesh-relay"
    old_mask = os.umask(0)
    try:
        identity = Identity.generate(secrets.token_bytes)
        identity.save(folder)
    finally:
        os.umask(old_mask)
    assert mode_of(folder) == 0o700
    assert [mode_of(path) for path in folder.iterdir()] == [0o600]
    assert Identity.load(folder) == identity
    assert identity.static.private.hex() not in repr(identity)
    assert identity.rendezvous.hex() not in repr(identity)


def test_no_identity_is_none(tmp_path):
    assert Identity.load(tmp_path) is None


def test_an_identity_is_never_overwritten(tmp_path):
    folder = tmp_path / "mesh-relay"
    identity = Identity.generate(secrets.token_bytes)
    identity.save(folder)
    with pytest.raises(PrivateFileError, match="never overwritten"):
        Identity.generate(secrets.token_bytes).save(folder)
    assert Identity.load(folder) == identity
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("lax", [0o640, 0o604, 0o660])
def test_an_identity_that_others_could_read_is_refused_with_the_remedy(tmp_path, lax):
    folder = tmp_path / "mesh-relay"
    Identity.generate(secrets.token_bytes).save(folder)
    path = folder / "identity.json"
    path.chmod(lax)
    with pytest.raises(PrivateFileError, match=f"chmod 600 {path}"):
        Identity.load(folder)


def test_a_folder_that_others_could_list_is_refused_with_the_remedy(tmp_path):
    folder = tmp_path / "mesh-relay"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(PrivateFileError, match=f"chmod 700 {folder}"):
        Identity.generate(secrets.token_bytes).save(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 1, "private": 7, "rendezvous": ""}',
        b'{"version": 1, "private": "AAAA", "rendezvous": "AAAA"}',
        b'{"version": 1, "private": "?", "rendezvous": "?"}',
        b"[" * 4000,
    ],
)
def test_a_damaged_identity_is_told_from_none(tmp_path, content):
    create_private(tmp_path / "identity.json", content)
    tmp_path.chmod(0o700)
    with pytest.raises(PrivateFileError, match="damaged"):
        Identity.load(tmp_path)


def test_an_identity_of_a_newer_version_asks_for_an_update(tmp_path):
    folder = tmp_path / "mesh-relay"
    Identity.generate(secrets.token_bytes).save(folder)
    path = folder / "identity.json"
    fields = json.loads(path.read_text())
    replace_private(path, json.dumps(fields | {"version": 2}).encode())
    with pytest.raises(PrivateFileError, match="update"):
        Identity.load(folder)


def test_what_is_not_a_plain_file_of_sensible_size_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    create_private(tmp_path / "large", bytes(101))
    for name in ("fifo", "link", "large"):
        with pytest.raises(PrivateFileError):
            read_private(tmp_path / name, 100)


def test_a_write_that_fails_leaves_the_old_content_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file"
    create_private(path, b"old")

    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(
        PrivateFileError, match=r"No space left on device; free some space and try again; nothing was changed"
    ):
        replace_private(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
