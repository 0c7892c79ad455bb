"""A node's key is looked for where thieves look: arguments, environment, logs at DEBUG, tracebacks, files it
writes.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from eth_account import Account

from commonweight.chain import keys
from commonweight.chain.deploy import deploy
from commonweight.chain.deployment import DeployConfig
from commonweight.chain.devnet import Devnet, fund
from commonweight.core.errors import CommonweightError

pytestmark = pytest.mark.chain
PASSWORD = "correct horse battery staple"

# A careless node: everything is logged, the key is put into messages and into an uncaught error.
NODE = """
import json, logging, sys
from pathlib import Path
from commonweight.chain import keys
from commonweight.chain.client import Chain
from commonweight.chain.journal import Journal
from commonweight.chain.sender import Sender

home, url = Path(sys.argv[1]), sys.argv[2]
logging.basicConfig(filename=home / "node.log", level=logging.DEBUG)
account = keys.load(home / "key.json", keys.read_password(home / "password"))
keys.guard_logs(account)
chain = Chain.connect(url, json.loads((home / "deployment.json").read_text()), confirmations=0)
with Journal(home / "node.sqlite") as journal:
    sender = Sender(chain, account, journal)
    sender.request("mint", "Token", "mint", [sender.address, 5])
    assert sender.wait("mint", 10).ok
    key = account.key
    log = logging.getLogger("careless")
    log.info("account %r, %s", account, vars(sender))
    log.debug("key %s", key.hex())
    log.debug("key %s as bytes %r and number %d", "0x" + key.hex().upper(), bytes(key), int.from_bytes(key))
    try:
        raise ValueError(key.hex())
    except ValueError:
        log.exception("caught")
    print("ready", flush=True)
    sys.stdin.readline()
    raise RuntimeError(f"cannot sign with {key.hex()}")
"""


def test_the_key_is_nowhere_to_be_found(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    keys.create(home / "key.json", PASSWORD, light=True)
    (home / "password").write_text(PASSWORD)
    (home / "password").chmod(0o600)
    key = bytes(keys.load(home / "key.json", PASSWORD).key)
    with Devnet(tmp_path / "net") as net:
        fund(net.url, keys.address_of(home / "key.json"), 10**18)
        (home / "deployment.json").write_text(
            json.dumps(dict(deploy(net.url, keys.dev_account(0), DeployConfig())))
        )
        command = [sys.executable, "-c", NODE, str(home), net.url]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as node:
            assert node.stdout is not None
            first = node.stdout.readline()
            seen = {
                "arguments": Path(f"/proc/{node.pid}/cmdline").read_bytes(),
                "environment": Path(f"/proc/{node.pid}/environ").read_bytes(),
            }
            out, err = node.communicate(b"\n", timeout=30)
    assert first == b"ready\n", err.decode()
    assert node.returncode == 1
    assert b"cannot sign with [key]" in err
    log = (home / "node.log").read_text()
    assert log.count("[key]") >= 5
    assert "DEBUG" in log
    seen |= {"output": out, "errors": err}
    seen |= {path.name: path.read_bytes() for path in home.iterdir() if path.name != "password"}
    for place, content in seen.items():
        low = content.lower()
        for form in (
            key,
            key.hex().encode(),
            str(int.from_bytes(key, "big")).encode(),
            base64.b64encode(key),
        ):
            assert form.lower() not in low, f"the key is in the {place}"
        assert PASSWORD.encode() not in content, f"the password is in the {place}"


def test_errors_about_keys_quote_neither_key_nor_password(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    account = Account.from_key(b"\x5a" * 32)
    path.write_text(json.dumps(Account.encrypt(account.key, PASSWORD, kdf="scrypt", iterations=4096)))
    path.chmod(0o600)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"version": 3, "crypto": {"key": "5a" * 32, "cipher": "5a" * 32}}))
    broken.chmod(0o600)
    for file, password in ((path, PASSWORD + "x"), (broken, PASSWORD)):
        with pytest.raises(CommonweightError) as caught:
            keys.load(file, password)
        text = "".join(traceback.format_exception(caught.value))
        assert "5a" * 32 not in text
        assert PASSWORD not in text
