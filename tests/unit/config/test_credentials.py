# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

from relay.config.credentials import MESH_SECRET, WIFI_SECRET, resolve
from relay.config.file import ConfigError, parse_config
from relay.config.net import NetConfig, RadioConfig
from relay.net.app import with_secrets

SECRET = "3f9a02c7e1b84d56908a7b6c5d4e3f21a1b2c3d4e5f60718293a4b5c6d7e8f90"


def test_a_secret_in_a_file_of_its_own_is_given_to_one_process(tmp_path):
    (tmp_path / MESH_SECRET).write_text(f"{SECRET}\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = parse_config(b'[mesh]\nsecret = "credential"\n', tmp_path / "relay.toml", {"HOME": "/"})
    assert resolve(config.mesh.secret, MESH_SECRET, environ) == SECRET
    (tmp_path / WIFI_SECRET).write_text("of the Wi-Fi\n")
    net = NetConfig(radios={"near": RadioConfig(secret="credential"), "far": RadioConfig(secret="its own secret")})
    found = with_secrets(net, environ)
    assert [radio.secret for radio in found.radios.values()] == ["of the Wi-Fi", "its own secret"]


@pytest.mark.parametrize("content", [None, "", "\n", "\xff"])
def test_a_file_that_is_lost_does_not_open_the_mesh(tmp_path, content):
    if content is not None:
        (tmp_path / MESH_SECRET).write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match="not there"):
        resolve("credential", MESH_SECRET, {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_what_is_in_the_configuration_is_taken_from_there():
    assert resolve("", MESH_SECRET, {}) == ""
    assert resolve(SECRET, MESH_SECRET, {}) == SECRET


def test_a_service_is_told_where_its_secret_belongs(caplog):
    assert resolve(SECRET, MESH_SECRET, {}) == SECRET
    assert not caplog.messages
    assert resolve(SECRET, MESH_SECRET, {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}) == SECRET
    assert "/etc/mesh-relay/mesh-secret" in caplog.text
    assert SECRET not in caplog.text
