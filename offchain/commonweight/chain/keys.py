"""Keys at rest and in hand: Web3 keystore files, passwords from files or prompts, and logs that cannot show a
key.

A key never comes from the command line or the environment: both can be read by other processes and end in
histories.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount

from ..core.errors import CommonweightError

DEV_CHAIN = 31337
LIGHT_ROUNDS = 4_096  # scrypt work factor for tests and throw-away keys; the default is 2**18
_DEV_MNEMONIC = "test test test test test test test test test test test junk"
# Public knowledge: anybody can spend what these addresses hold.
DEV_ADDRESSES = tuple(
    bytes.fromhex(text)
    for text in (
        "f39fd6e51aad88f6f4ce6ab8827279cfffb92266",
        "70997970c51812dc3a010c7d01b50e0d17dc79c8",
        "3c44cdddb6a900fa2b585dd299e03d12fa4293bc",
        "90f79bf6eb2c4f870365e785982e1f101e93b906",
        "15d34aaf54267db7d7c367839aaf71a00a2c6a65",
        "9965507d1a55bcc2695c58ba16fb37d819b0a4dc",
        "976ea74026e726554db657fa54763abd0c3a0aa9",
        "14dc79964da2c08b23698b3d3cc7ca32193d9955",
        "23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f",
        "a0ee7a142d267c1f36714e4a8f75612f20a79720",
    )
)


def create(path: Path, password: str, light: bool = False) -> bytes:
    """Make a new key, write it to ``path`` (mode 0600) encrypted with ``password``, and return its address.

    Raises E1306 when the file exists: overwriting a key loses what it owns.
    """
    account = Account.create()
    text = json.dumps(
        Account.encrypt(account.key, password, kdf="scrypt", iterations=LIGHT_ROUNDS if light else None)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise CommonweightError(
            "E1306", f"{path} exists already", "keys are never overwritten: choose another path"
        ) from None
    with os.fdopen(fd, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return bytes.fromhex(account.address[2:])


def address_of(path: Path) -> bytes:
    """The address that a keystore file names; needs no password. Raises E1302 when it is not a keystore."""
    try:
        return bytes.fromhex(_read(path)["address"].lower().removeprefix("0x"))
    except (KeyError, ValueError, AttributeError):
        raise _not_a_keystore(path) from None


def load(path: Path, password: str) -> LocalAccount:
    """Decrypt a keystore file.

    Raises E1301 for a wrong password, E1302 when it is not a keystore, E1303 when other users may read it.
    """
    store = _read(path)
    refuse_shared(path)
    try:
        secret = bytes(Account.decrypt(store, password))
    except ValueError as error:
        # Some messages of the libraries below quote their input; none of that may reach a log.
        if "MAC" in str(error):
            raise CommonweightError(
                "E1301", f"wrong password for {path}", "check the password file"
            ) from None
        raise _not_a_keystore(path) from None
    except (KeyError, TypeError, AttributeError, NotImplementedError):
        raise _not_a_keystore(path) from None
    account: LocalAccount = Account.from_key(secret)
    return account


def read_password(file: Path | None = None, prompt: str = "Password: ") -> str:
    """A password from the first line of a file that only its owner may read (E1303), or typed at a terminal.

    Raises E1308 when there is neither, or when it is empty.
    """
    if file is not None:
        refuse_shared(file)
        lines = file.read_text("utf-8").splitlines()
        password = lines[0] if lines else ""
    elif sys.stdin.isatty():
        password = getpass.getpass(prompt)
    else:
        raise CommonweightError("E1308", "there is no terminal to ask for a password", "give a password file")
    if not password:
        raise CommonweightError("E1308", "the password is empty", "a key needs a password")
    return password


def refuse_shared(path: Path) -> None:
    """Raise E1303 when other users may read or write ``path``, E1302 when it is missing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise CommonweightError("E1302", f"there is no file {path}", "check the path") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CommonweightError("E1303", f"other users may read {path}", f"run: chmod 600 {path}")


def refuse_dev_key(address: bytes | str, chain_id: int) -> None:
    """Raise E1304 for one of Anvil's well-known accounts on any chain but a local one."""
    plain = bytes.fromhex(address.removeprefix("0x")) if isinstance(address, str) else address
    if chain_id != DEV_CHAIN and plain in DEV_ADDRESSES:
        raise CommonweightError(
            "E1304",
            f"0x{plain.hex()} is a well-known development key and this is chain {chain_id}",
            "everybody has this key and would take what it earns: create your own",
        )


def dev_account(index: int, chain_id: int = DEV_CHAIN) -> LocalAccount:
    """One of Anvil's ten accounts, for local chains (E1304 on others)."""
    refuse_dev_key(DEV_ADDRESSES[index], chain_id)
    Account.enable_unaudited_hdwallet_features()
    account: LocalAccount = Account.from_mnemonic(_DEV_MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
    return account


class Redact(logging.Filter):
    """Replaces one key in log messages and tracebacks, in hex, as a number or as the text of Python bytes."""

    def __init__(self, account: LocalAccount) -> None:
        super().__init__()
        self.clean = _cleaner(bytes(account.key))

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without the key."""
        message = record.getMessage()
        clean = self.clean(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self.clean(record.exc_text)
        return True


def _cleaner(key: bytes) -> Callable[[str], str]:
    """A function that takes the key out of a text; inside it, the key is in nobody's attributes."""
    forms = (re.escape(form) for form in (key.hex(), str(int.from_bytes(key, "big")), repr(key)[2:-1]))
    pattern = re.compile("|".join(forms), re.IGNORECASE)
    return lambda text: pattern.sub("[key]", text)


def guard_logs(account: LocalAccount) -> Callable[[], None]:
    """Keep this key out of every log record of the process, whatever handlers there are or come; returns an
    undo.

    Uncaught tracebacks are covered as well.
    """
    redact, make, hook = Redact(account), logging.getLogRecordFactory(), sys.excepthook

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        redact.filter(record)
        return record

    def uncaught(kind: type[BaseException], value: BaseException, trace: Any) -> None:
        sys.stderr.write(redact.clean(logging.Formatter().formatException((kind, value, trace))) + "\n")

    def undo() -> None:
        logging.setLogRecordFactory(make)
        sys.excepthook = hook

    logging.setLogRecordFactory(factory)
    sys.excepthook = uncaught
    return undo


def _read(path: Path) -> dict[str, Any]:
    try:
        store = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CommonweightError(
            "E1302", f"there is no key at {path}", "check the path, or create a key"
        ) from None
    except (OSError, ValueError):
        raise _not_a_keystore(path) from None
    if not isinstance(store, dict) or store.get("version") != 3:
        raise _not_a_keystore(path)
    return store


def _not_a_keystore(path: Path) -> CommonweightError:
    return CommonweightError(
        "E1302", f"{path} is not a Web3 keystore (version 3)", "create a key, or export it as a keystore"
    )
