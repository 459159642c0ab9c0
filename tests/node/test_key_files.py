"""Keys at rest: sealed under a passphrase, opened by it alone; what a changed or foreign file does."""

import getpass
from pathlib import Path

import pytest

from ledger.keys import Key
from node.cli.main import main
from node.client.key_files import MAGIC, PASSPHRASE_VARIABLE, public_of, seal, seed_of
from node.errors import ConfigError
from node.home import Home, load_key, read_public, write_secret

SEED = b"\x05" * 32
PUBLIC = Key(SEED).public
WORD = b"correct horse"


def test_a_sealed_key_opens_with_its_passphrase_alone() -> None:
    text = seal(SEED, WORD)
    assert seed_of(text.strip(), "f", lambda _: WORD) == SEED
    assert public_of(text.strip(), "f") == PUBLIC
    assert SEED.hex() not in text
    assert seal(SEED, WORD) != text, "another salt and nonce each time"
    with pytest.raises(ConfigError, match="wrong passphrase"):
        seed_of(text.strip(), "f", lambda _: b"Correct horse")
    with pytest.raises(ConfigError, match="8 to 1024 bytes"):
        seal(SEED, b"short")


def test_a_changed_or_foreign_file_is_told() -> None:
    words = seal(SEED, WORD).split()
    for place, value, told in (
        (1, Key(b"\x06" * 32).public.hex(), "not the one that the file names"),
        (1, "00", "wrong length"),
        (2, "x", "six words"),
        (2, "21", "costs more"),
        (3, str(2 << 30), "costs more"),
        (3, "1024", "costs more"),
        (4, "00" * 15, "wrong length"),
        (5, words[5][:-2], "wrong passphrase"),
        (5, "00", "wrong passphrase"),
    ):
        text = " ".join([*words[:place], value, *words[place + 1 :]])
        with pytest.raises(ConfigError, match=told):
            seed_of(text, "f", lambda _: WORD)
    with pytest.raises(ConfigError, match="six words"):
        seed_of(MAGIC + " 00", "f", lambda _: WORD)
    with pytest.raises(ConfigError, match="64 lower-case hex digits"):
        seed_of("zz", "f", lambda _: WORD)


def test_programs_take_the_passphrase_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, word = tmp_path / "key", tmp_path / "word"
    write_secret(file, seal(SEED, WORD))
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="encrypted: name a file"):
        load_key(file)
    write_secret(word, WORD.decode() + "\n")
    monkeypatch.setenv(PASSPHRASE_VARIABLE, str(word))
    assert load_key(file).public == PUBLIC
    word.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        load_key(file)
    assert read_public(file) == PUBLIC, "nobody is asked for the public half"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    home = Home(tmp_path / "home")
    home.create()
    write_secret(home.keys_dir / "legal", SEED.hex() + "\n")
    return home


def typed(monkeypatch: pytest.MonkeyPatch, *words: bytes) -> None:
    """Somebody sits there and types these, one at each question."""
    answers = iter(words)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", lambda _: next(answers).decode())


def test_encrypt_change_decrypt(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, flags = home.keys_dir / "legal", ["--home", str(home.root)]

    def keys(*words: str) -> int:
        return main(["keys", *words, *flags])

    assert keys("encrypt", "legal") == 2, "nobody to ask"
    typed(monkeypatch, WORD, b"correct house")
    assert keys("encrypt", "legal") == 1
    assert file.read_text() == SEED.hex() + "\n"
    typed(monkeypatch, WORD, WORD)
    assert keys("encrypt", "legal") == 0
    assert SEED.hex() not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys("encrypt", "legal") == 1, "it is already"
    typed(monkeypatch)
    assert keys("show", "legal") == 0
    assert keys("list") == 0
    assert keys("import", "copy", "-f", str(file)) == 0
    typed(monkeypatch, b"wrong horse", b"x", b"x")
    assert keys("change", "legal") == 1
    second = tmp_path / "second"
    write_secret(second, "another word\n")
    typed(monkeypatch, WORD)
    assert keys("change", "legal", "--passphrase-file", str(second)) == 0
    typed(monkeypatch, WORD)
    assert keys("decrypt", "legal") == 1
    typed(monkeypatch, b"another word")
    assert keys("decrypt", "legal") == 0
    assert load_key(file).public == PUBLIC
    assert keys("decrypt", "legal") == 1, "it is not encrypted"
    assert load_key(home.keys_dir / "copy", lambda _: WORD).public == PUBLIC
    typed(monkeypatch, WORD, WORD)
    assert keys("new", "fresh", "--encrypt") == 0
    assert load_key(home.keys_dir / "fresh", lambda _: WORD).public == read_public(home.keys_dir / "fresh")
