"""Deploy with Brownie: `brownie run deploy --network NAME`, the same steps and the same file as the command line's.

Settings come from the environment, never a key itself:

    COMMONWEIGHT_KEY            keystore file of the deployer; on a local chain the node's first account if unset
    COMMONWEIGHT_PASSWORD_FILE  file with its password; asked for if unset
    COMMONWEIGHT_TOKEN          address of the reward token; unset creates a test token (allowed on local chains)
    COMMONWEIGHT_TEST_TOKEN     1 allows the test token on a public testnet
    COMMONWEIGHT_OUT            deployment file to write; deployments/<chain id>.json if unset
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from brownie import accounts, web3

from commonweight.chain import deployment, keys
from commonweight.chain.deployment import DeployConfig, Ledger
from commonweight.core.errors import CommonweightError

GAS_MARGIN = 1.2


def main() -> None:
    """What `brownie run deploy` calls."""
    try:
        path = deploy(os.environ.get)
    except CommonweightError as error:
        raise SystemExit(str(error)) from None
    print(f"wrote {path}")


def deploy(setting: Any) -> Path:
    """Deploy as the settings say and write the deployment file."""
    eth: Any = web3.eth
    chain_id = int(eth.chain_id)
    token = setting("COMMONWEIGHT_TOKEN", "")
    config = DeployConfig(token=_address(token) if token else None)
    deployment.require_allowed(config, chain_id, setting("COMMONWEIGHT_TEST_TOKEN") == "1")
    sender = _deployer(setting, chain_id)
    keys.refuse_dev_key(sender.address, chain_id)

    def create(code: bytes) -> tuple[bytes, int]:
        call = {"from": sender.address, "data": "0x" + code.hex()}
        limit = int(eth.estimate_gas(call) * GAS_MARGIN)
        receipt = sender.transfer(data=call["data"], gas_limit=limit)
        print(f"created {receipt.contract_address} in block {receipt.block_number}")
        return _address(receipt.contract_address), int(receipt.block_number)

    ledger = Ledger(
        chain_id=chain_id,
        deployer=_address(sender.address),
        create=create,
        call=lambda to, data: bytes(eth.call({"to": _checksum(to), "data": "0x" + data.hex()})),
        code=lambda address: bytes(eth.get_code(_checksum(address))),
    )
    record = deployment.execute(ledger, config)
    path = Path(setting("COMMONWEIGHT_OUT") or Path("deployments") / f"{chain_id}.json")
    deployment.save(record, path)
    return path


def _deployer(setting: Any, chain_id: int) -> Any:
    """The account that pays: from a keystore file, or a local node's first one. Raises E1302 without either."""
    file = setting("COMMONWEIGHT_KEY")
    if file:
        password = setting("COMMONWEIGHT_PASSWORD_FILE")
        key = keys.load(Path(file), keys.read_password(Path(password) if password else None)).key
        return accounts.add(key)
    if chain_id in deployment.LOCAL_CHAINS and len(accounts):
        return accounts[0]
    raise CommonweightError(
        "E1302", "COMMONWEIGHT_KEY names no keystore file", "set it to the deployer's keystore"
    )


def _address(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raw = b""
    if len(raw) != deployment.ADDRESS_BYTES:
        raise CommonweightError("E1902", f"`{text}` is not an address", "0x and 40 hex digits")
    return raw


def _checksum(address: bytes) -> str:
    return str(web3.to_checksum_address("0x" + address.hex()))
