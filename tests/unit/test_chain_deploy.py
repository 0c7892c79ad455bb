"""Where contracts land, in which order they are created, and which networks are known by name."""

from __future__ import annotations

import pytest

from commonweight.chain import deployment, networks
from commonweight.chain.deployment import LIBRARIES, DeployConfig, created, plan
from commonweight.core.errors import CommonweightError

CREATOR = bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0")


@pytest.mark.parametrize(
    ("nonce", "address"),
    [
        (0, "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d"),
        (1, "343c43a37d37dff08ae8c4a11544c718abb4fcf8"),
        (2, "f778b86fa74e846c4f0a1fbd1335fe81c00a0c91"),
        (3, "fffd933a0bc612844eaf0c6fe3e5b8e9b6c1d19c"),
    ],
)
def test_the_address_of_a_creation_is_the_known_one(nonce: int, address: str) -> None:
    assert created(CREATOR, nonce).hex() == address


def test_each_contract_comes_after_what_it_is_linked_to() -> None:
    steps = plan(DeployConfig(), CREATOR, 7)
    assert [step.name for step in steps] == ["TestToken", *LIBRARIES, "Protocol"]
    assert [step.address for step in steps] == [created(CREATOR, 7 + i) for i in range(len(steps))]
    at = {step.name: i for i, step in enumerate(steps)}
    for step in steps:
        for library in deployment.packaged(step.name)["links"]:
            assert at[library] < at[step.name]
            assert steps[at[library]].address in step.code


def test_a_token_of_ones_own_is_not_created() -> None:
    token = bytes(range(20))
    steps = plan(DeployConfig(token=token), CREATOR, 0)
    assert [step.name for step in steps] == [*LIBRARIES, "Protocol"]
    assert steps[-1].code.endswith(
        bytes(12) + token + b"".join(v.to_bytes(32, "big") for v in (10**21, 604_800, 10**17))
    )


def test_the_packaged_code_says_of_which_contract_it_knows_nothing() -> None:
    with pytest.raises(CommonweightError) as caught:
        deployment.creation_code("Absent")
    assert caught.value.code == "E1202"


# From the chains' own documents; a wrong one would make a key sign for another chain.
KNOWN = {
    "anvil": 31337,
    "ganache": 1337,
    "sepolia": 11_155_111,
    "hoodi": 560_048,
    "holesky": 17_000,
    "base-sepolia": 84_532,
    "optimism-sepolia": 11_155_420,
    "unichain-sepolia": 1_301,
    "celo-sepolia": 11_142_220,
    "arbitrum-sepolia": 421_614,
    "scroll-sepolia": 534_351,
    "linea-sepolia": 59_141,
    "polygon-amoy": 80_002,
    "bnb-testnet": 97,
    "avalanche-fuji": 43_113,
    "gnosis-chiado": 10_200,
}


def test_every_preset_is_the_chain_that_it_names() -> None:
    assert {name: net.chain_id for name, net in networks.presets().items()} == KNOWN
    for name, net in networks.presets().items():
        assert net.rpc_env == "COMMONWEIGHT_RPC_" + name.upper().replace("-", "_")
        assert net.confirmations >= 1


def test_brownie_gets_every_preset_and_no_address_from_the_environment() -> None:
    (group,) = networks.brownie_networks()["live"]
    assert {net["id"]: net["chainid"] for net in group["networks"]} == {
        f"commonweight-{name}": chain for name, chain in KNOWN.items()
    }
    assert {net["host"] for net in group["networks"] if net["chainid"] not in deployment.LOCAL_CHAINS} == {
        "$" + net.rpc_env for net in networks.presets().values() if not net.rpc_url
    }
