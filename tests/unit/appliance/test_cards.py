# SPDX-License-Identifier: GPL-2.0-or-later
import stat

import pytest

from relay.appliance.check import check
from relay.cli import main
from relay.config.passwords import why_trivial


def cards(folder, *, count="20", country="DE"):
    return main(["appliance", "cards", "--count", count, "--country", country, str(folder)])


def test_twenty_cards_are_one_mesh_and_nobody_elses(tmp_path, capsys):
    secrets = set()
    for mesh in ("one", "two"):
        folder = tmp_path / mesh
        assert cards(folder) == 0
        said = capsys.readouterr().out
        paths = sorted(folder.glob("*/relay.toml"))
        assert [path.parent.name for path in paths] == [f"{number:02}" for number in range(1, 21)]
        found = {
            (read.country, read.mesh_secret) for path in paths for read in [check(path.read_bytes(), path).appliance]
        }
        ((country, secret),) = found
        assert country == "DE"
        assert secret not in said
        assert "how to keep the secret" in said
        secrets.add(secret)
        for path in folder.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
            assert path.is_dir() or b"\r\n" in path.read_bytes()
        assert secret not in (folder / "KEEP-THIS-SECRET.txt").read_text()
    assert len(secrets) == 2


@pytest.mark.parametrize(
    ("wrong", "said"), [({"country": "UK"}, "GB"), ({"country": ""}, "country"), ({"count": "0"}, "from 1")]
)
def test_what_is_wrong_is_said(tmp_path, capsys, wrong, said):
    assert cards(tmp_path / "new", **wrong) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_no_secret_is_written_over(tmp_path, capsys):
    assert cards(tmp_path / "new") == 0
    before = (tmp_path / "new" / "01" / "relay.toml").read_bytes()
    assert cards(tmp_path / "new") != 0
    assert "already" in capsys.readouterr().err
    assert (tmp_path / "new" / "01" / "relay.toml").read_bytes() == before


def test_each_card_has_a_page_of_its_own_name(tmp_path, capsys):
    arguments = ["appliance", "cards", "--count", "12", "--country", "FR"]
    assert main([*arguments, "--hostname", "Gate-{n}", str(tmp_path / "camp")]) == 0
    paths = sorted((tmp_path / "camp").glob("*/relay.toml"))
    assert [check(path.read_bytes(), path).appliance.hostname for path in paths] == [
        f"gate-{n:02}" for n in range(1, 13)
    ]
    for wrong, said in (("gate", "one name"), ("the gate {n}", "without dots and spaces")):
        assert main([*arguments, "--hostname", wrong, str(tmp_path / "wrong")]) != 0
        assert said in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()


def test_each_card_s_poster_leads_to_its_own_access_point(tmp_path, capsys):
    folder = tmp_path / "camp"
    arguments = ["appliance", "cards", "--count", "3", "--country", "FR", "--access-point", 'Camp "{n}"', "--password"]
    assert main([*arguments, str(folder)]) == 0
    passwords = set()
    for number in ("1", "2", "3"):
        card = folder / number
        found = check((card / "relay.toml").read_bytes(), card / "relay.toml").appliance
        assert found.serves_phones
        assert found.access_point_name == f'Camp "{number}"'
        passwords.add(found.access_point_password)
        shown = (card / "poster.svg").read_text()
        assert f"Camp &quot;{number}&quot;" in shown
        assert found.access_point_password in shown
        assert (card / "poster.pdf").read_bytes().startswith(b"%PDF")
        assert found.mesh_secret not in shown
        assert {stat.S_IMODE(path.stat().st_mode) for path in card.iterdir()} == {0o600}
    (password,) = passwords
    assert not why_trivial(password)
    assert password not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--access-point", ""], "1 to 32"),
        (["--access-point", "x" * 33], "1 to 32"),
        (["--access-point", "x" * 31 + "{n}"], "1 to 32"),
        (["--password"], "--access-point NAME"),
    ],
)
def test_a_wifi_that_cannot_be_is_said_before_anything_is_written(tmp_path, capsys, more, said):
    new = tmp_path / "new"
    assert main(["appliance", "cards", "--count", "20", "--country", "FR", *more, str(new)]) != 0
    assert said in capsys.readouterr().err
    assert not new.exists()
