"""Deploy with Brownie: `brownie run deploy --network NAME`, the same steps and the same file as the command line's.

Settings come from the environment, never a key itself:

    COMMONWEIGHT_KEY            keystore file of the deployer; on a local chain the node's first account if unset
    COMMONWEIGHT_PASSWORD_FILE  file with its password; asked for if unset
    COMMONWEIGHT_TOKEN          address of the reward token; unset creates a test token (allowed on local chains)
    COMMONWEIGHT_TEST_TOKEN     1 allows the test token on a public testnet
    COMMONWEIGHT_OUT            deployment file to write; deployments/<chain id>.json if unset
    COMMONWEIGHT_DRY_RUN        1 prints the plan and its maximum cost, sends nothing and asks for no password

`make brownie-networks` gives Brownie the networks of `commonweight network list`, as commonweight-NAME.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from brownie import accounts, web3

from commonweight.chain import deployment, keys
from commonweight.chain.deploy import describe, estimate
from commonweight.chain.deployment import DeployConfig, Ledger
from commonweight.chain.genuine import compare
from commonweight.core.errors import CommonweightError


def main() -> None:
    """What `brownie run deploy` calls."""
    try:
        path = deploy(os.environ.get)
    except CommonweightError as error:
        raise SystemExit(str(error)) from None
    if path is not None:
        print(f"wrote {path}")


def deploy(setting: Any) -> Path | None:
    """Deploy as the settings say and write the deployment file; None after a dry run."""
    eth: Any = web3.eth
    chain_id = int(eth.chain_id)
    token = setting("COMMONWEIGHT_TOKEN", "")
    config = DeployConfig(token=_address(token) if token else None)
    test_token = setting("COMMONWEIGHT_TEST_TOKEN") == "1"
    path = Path(setting("COMMONWEIGHT_OUT") or Path("deployments") / f"{chain_id}.json")
    if setting("COMMONWEIGHT_DRY_RUN") == "1":
        for line in describe(estimate(_ask, _payer(setting, chain_id), config, test_token)):
            print(line)
        print(f"the deployment file would be {path}")
        return None
    expected = estimate(_ask, _payer(setting, chain_id), config, test_token)
    sender = _deployer(setting, chain_id)
    limits = iter(gas for _, gas in expected.steps)

    def create(code: bytes) -> tuple[bytes, int]:
        receipt = sender.transfer(
            data="0x" + code.hex(), gas_limit=next(limits), max_fee=expected.fee, priority_fee=expected.tip
        )
        print(f"created {receipt.contract_address} in block {receipt.block_number}")
        return _address(receipt.contract_address), int(receipt.block_number)

    ledger = Ledger(
        chain_id=chain_id,
        deployer=expected.deployer,
        create=create,
        call=lambda to, data: bytes(eth.call({"to": _checksum(to), "data": "0x" + data.hex()})),
        code=lambda address: bytes(eth.get_code(_checksum(address))),
    )
    record = deployment.execute(ledger, config)
    compare(record, ledger.code, lambda code: _bytes(_ask("eth_call", {"data": "0x" + code.hex()}, "latest")))
    deployment.save(record, path)
    return path


def _ask(method: str, *params: Any) -> Any:
    """JSON-RPC through Brownie's connection. Raises E1206."""
    provider: Any = web3.provider
    answer = provider.make_request(method, list(params))
    if answer.get("error"):
        raise CommonweightError(
            "E1206", f"the chain answered: {answer['error']}", "check the key and the token"
        )
    return answer["result"]


def _payer(setting: Any, chain_id: int) -> bytes:
    """Address of the account that pays; a keystore file says it without its password."""
    file = setting("COMMONWEIGHT_KEY")
    return keys.address_of(Path(file)) if file else _address(_deployer(setting, chain_id).address)


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


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _checksum(address: bytes) -> str:
    return str(web3.to_checksum_address("0x" + address.hex()))
