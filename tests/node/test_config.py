"""Settings: flag over variable over file over default, and errors that name source, key and rule."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import KEYS, P2P, Api, Bot, Log, Node, Settings, load_settings, template
from node.errors import ConfigError
from node.home import (
    Home,
    RunInfo,
    create_key,
    key_path,
    load_key,
    read_run,
    remove_run,
    start_ticks,
    write_run,
    write_secret,
)

PEER = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"


def written(folder: Path, text: str) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    return file


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    text = 'moniker = "file"\n[p2p]\nneighbours_max = 3\nbootstrap = []\n[api]\nlisten = "127.0.0.1:1"\n'
    file = written(tmp_path, text)
    env = {"GRIDPACT_P2P_NEIGHBOURS_MAX": "4", "GRIDPACT_API_LISTEN": "127.0.0.1:2", "GRIDPACT_HOME": "/x"}
    settings = load_settings(file, env, {"api.listen": "127.0.0.1:3", "p2p.persistent_peers": (PEER,)})
    assert settings.moniker == "file"
    assert settings.p2p.neighbours_max == 4
    assert settings.api.listen == "127.0.0.1:3"
    assert settings.p2p.persistent_peers == (PEER,)
    assert settings.log.level == "info"


def test_lists_in_variables_are_separated_by_commas() -> None:
    listen = "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.2/tcp/0"
    assert load_settings(None, {"GRIDPACT_P2P_LISTEN": listen}).p2p.listen == tuple(listen.split(","))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("monicker = 'x'", ("config.toml", "monicker", "unknown key", "moniker")),
        ("[p2p]\nlistn = []", ("p2p.listn", "p2p.listen")),
        ("p2p = 3", ("p2p", "section")),
        ("[p2p]\nlisten = ['127.0.0.1:3']", ("p2p.listen", "multiaddr")),
        ("[p2p]\nbootstrap = ['/ip4/127.0.0.1/tcp/1']", ("p2p.bootstrap", "/p2p/")),
        ("[p2p]\nneighbours_max = 'many'", ("p2p.neighbours_max", "int")),
        ("[p2p]\nneighbours_max = 0", ("p2p.neighbours_max", "1 to 64")),
        ("[api]\nlisten = '27657'", ("api.listen", "host:port")),
        ("roles = ['king']", ("roles", "king")),
        ("roles = ['validator', 'validator']", ("roles", "twice")),
        ("roles = ['node']", ("roles", "node.farm")),
        ("roles = ['bot']", ("roles", "bot.account")),
        ("[node]\ncountry = 'Belgium'", ("node.country", "two capital letters")),
        ("[node]\nmemory = 'lots'", ("node.memory", "64MiB")),
        ("[node]\nprice_cpu = 'cheap'", ("node.price_cpu", "credit")),
        ("[node]\nlisten_host = 'here'", ("node.listen_host", "IP address")),
        ("[node]\nhdd = 'much'", ("node.hdd", "64MiB")),
        ("[node]\nhdd_folder = 'disk'", ("node.hdd_folder", "absolute path")),
        ("[node]\nssd_folder = '/srv/../etc'", ("node.ssd_folder", "absolute path")),
        ("[node]\nprice_hdd = 'cheap'", ("node.price_hdd", "credit")),
        ("[node]\nvolume_classes = ['ssd']", ("volume_classes",)),
        ("[log]\nlevel = 'loud'", ("log.level", "loud")),
        ("moniker = 'a'\nmoniker = 'b'", ("config.toml", "TOML")),
    ],
)
def test_a_bad_setting_is_refused_by_name_and_rule(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(written(tmp_path, text), {})
    for name in names:
        assert name in str(caught.value)


def test_a_mistyped_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"GRIDPACT_P2P_LISTENS.*GRIDPACT_P2P_LISTEN\?"):
        load_settings(None, {"GRIDPACT_P2P_LISTENS": "x"})


def test_the_template_names_each_key_and_loads_back(tmp_path: Path) -> None:
    settings = Settings(
        moniker='odd "name" \\ ünï',
        roles=("node", "bot"),
        p2p=P2P(listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=(PEER,), neighbours_max=5),
        api=Api(listen="127.0.0.1:0", hosts=("a.example",)),
        node=Node(farm="alpha", country="BE", cpu="1500m", price_cpu="0.25"),
        bot=Bot(account="consumer"),
        log=Log(level="debug"),
    )
    text = template(settings)
    assert load_settings(written(tmp_path, text), {}) == settings
    for key in KEYS:
        assert key.description in text
        assert key.description.endswith(".")


@given(st.text(min_size=1, max_size=64).filter(str.isprintable))
def test_any_moniker_survives_the_template(tmp_path_factory: pytest.TempPathFactory, moniker: str) -> None:
    file = written(tmp_path_factory.mktemp("t"), template(Settings(moniker=moniker)))
    assert load_settings(file, {}).moniker == moniker


def test_each_variable_is_its_key() -> None:
    assert len({key.env for key in KEYS}) == len(KEYS)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = create_key(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_key(file).public == key.public
    with pytest.raises(ConfigError, match="never overwritten"):
        create_key(file)
    assert load_key(file).public == key.public
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(file)


@pytest.mark.parametrize("text", ["", "ab", "Z" * 64, "A" * 64, "a" * 65])
def test_a_malformed_key_file_is_refused(tmp_path: Path, text: str) -> None:
    write_secret(tmp_path / "key", text)
    with pytest.raises(ConfigError, match="64 lower-case hex"):
        load_key(tmp_path / "key")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "a b"])
def test_key_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="key name"):
        key_path(tmp_path, name)


def test_the_home_is_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    home.create()
    home.create()
    for folder in (home.root, home.config_dir, home.keys_dir, home.data_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_run_note_dies_with_its_process(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    ticks = start_ticks(os.getpid())
    assert ticks is not None
    info = RunInfo(
        pid=os.getpid(),
        start_ticks=ticks,
        moniker="m",
        peer_id="p",
        api="127.0.0.1:1",
        p2p=(PEER,),
        started_ms=1,
    )
    assert read_run(home) is None
    write_run(home, info)
    assert read_run(home) == info
    write_run(home, msgspec.structs.replace(info, start_ticks=ticks + 1))
    assert read_run(home) is None  # a reused pid is another process
    remove_run(home)
    remove_run(home)
    assert read_run(home) is None


def test_a_garbled_run_note_counts_as_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create()
    home.run_file.write_bytes(b"{")
    assert read_run(home) is None
