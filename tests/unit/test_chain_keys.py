"""Keys and networks: what is refused, with which code, and that nothing is overwritten."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest
from eth_account import Account

from commonweight.chain import keys
from commonweight.chain.networks import presets, resolve
from commonweight.core.errors import CommonweightError


def refused(code: str, action: object, *args: object) -> CommonweightError:
    with pytest.raises(CommonweightError) as caught:
        action(*args)  # type: ignore[operator]
    assert caught.value.code == code
    return caught.value


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "key.json"
    keys.create(path, "secret", light=True)
    return path


def test_a_key_comes_back_with_its_password_only(store: Path) -> None:
    account = keys.load(store, "secret")
    assert bytes.fromhex(account.address[2:]) == keys.address_of(store)
    assert store.stat().st_mode & 0o777 == 0o600
    error = refused("E1301", keys.load, store, "wrong")
    assert "wrong password" in error.message


def test_a_key_is_never_overwritten(store: Path) -> None:
    before = store.read_bytes()
    refused("E1306", keys.create, store, "other", True)
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"version": 3}', b'{"version": 3, "crypto": 7}', b"\xff\xfe", b'{"version": 1}'],
)
def test_other_files_are_no_keystores(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(content)
    path.chmod(0o600)
    refused("E1302", keys.load, path, "secret")
    refused("E1302", keys.address_of, path)
    refused("E1302", keys.load, tmp_path / "missing", "secret")


def test_a_torn_keystore_is_no_keystore(store: Path, tmp_path: Path) -> None:
    found = json.loads(store.read_text())
    found["crypto"]["kdfparams"].pop("n", None)
    found["crypto"]["kdfparams"].pop("c", None)
    path = tmp_path / "key.json"
    path.write_text(json.dumps(found))
    path.chmod(0o600)
    refused("E1302", keys.load, path, "secret")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_files_that_others_may_touch_are_refused(store: Path, tmp_path: Path, mode: int) -> None:
    for name, read in (("key", lambda p: keys.load(p, "secret")), ("password", keys.read_password)):
        path = tmp_path / name
        path.write_bytes(store.read_bytes())
        path.chmod(mode)
        error = refused("E1303", read, path)
        assert "chmod 600" in error.hint


def test_passwords_come_from_a_file_or_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "password"
    path.write_text("  with spaces \nsecond line\n")
    path.chmod(0o600)
    assert keys.read_password(path) == "  with spaces "
    path.write_text("\n")
    refused("E1308", keys.read_password, path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped"))
    refused("E1308", keys.read_password)


def test_development_keys_are_for_the_local_chain() -> None:
    for index in range(10):
        account = keys.dev_account(index)
        address = bytes.fromhex(account.address[2:])
        assert address == keys.DEV_ADDRESSES[index]
        keys.refuse_dev_key(address, 31337)
        refused("E1304", keys.refuse_dev_key, address, 1)
        refused("E1304", keys.refuse_dev_key, account.address, 11155111)
    refused("E1304", keys.dev_account, 0, 11155111)
    keys.refuse_dev_key(b"\x01" * 20, 1)


def test_logs_lose_the_key_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    account = Account.from_key(bytes(range(64, 96)))
    key = bytes(account.key)
    redact = keys.Redact(account)
    for form in (key.hex(), key.hex().upper(), str(int.from_bytes(key, "big")), repr(key)[2:-1]):
        assert redact.clean(f"at <ab{form}cd>!") == "at <ab[key]cd>!"
    other = "0x" + "ab" * 32 + " b'abc' " + "1" * 75
    assert redact.clean(other) == other
    assert not [value for value in vars(redact).values() if redact.clean(repr(value)) != repr(value)]

    undo = keys.guard_logs(account)
    try:
        logger = logging.getLogger("anything.at.all")
        logger.warning("signing with %s", account.key.hex())
        try:
            raise RuntimeError(f"bad key {account.key.hex()}")
        except RuntimeError:
            logger.exception("failed")
    finally:
        undo()
    assert key.hex() not in caplog.text
    assert caplog.text.count("[key]") == 2
    assert key.hex() not in repr(account)


def test_networks_have_names() -> None:
    assert {"anvil", "sepolia"} <= presets().keys()
    assert len({n.chain_id for n in presets().values()}) == len(presets())
    assert resolve("anvil", {}).rpc_url.startswith("http://127.0.0.1")
    assert resolve("sepolia", {"COMMONWEIGHT_RPC_SEPOLIA": "https://x/y"}).rpc_url == "https://x/y"
    refused("E1212", resolve, "sepolia", {})
    refused("E1212", resolve, "mainnet", {})
    custom = resolve("https://example.invalid/token", {})
    assert (custom.chain_id, custom.confirmations) == (None, 12)
    assert resolve("http://localhost:9999", {}).confirmations < 12
