// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Life} from "./Life.sol";

/// "Solvent and never stuck": random lives of the whole protocol, driven by `Life`, which knows no reverting move.
contract InvariantsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Life private life;

    function setUp() public override {
        life = new Life();
        life.setUp();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(life);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0].addr = address(life);
        targets[0].selectors = new bytes4[](1);
        targets[0].selectors[0] = Life.step.selector;
    }

    /// I1: what the Vault holds is what it owes, and what it owes is the sum of all balances and pots.
    function invariant_I1_the_vault_is_solvent() external view {
        (uint256 owed, uint256 frees, uint256 pots, uint256 balance) = life.held();
        eq(owed, frees + pots, "owed is the sum of all balances and pots");
        eq(balance, owed, "the vault holds what it owes");
    }

    /// I16: from wherever a life has come, strangers bring everything home.
    function afterInvariant() external {
        life.finish();
    }

    /// Lives of every length, each brought home.
    /// forge-config: default.fuzz.runs = 24
    /// forge-config: deep.fuzz.runs = 5000
    function test_solvent_and_never_stuck(uint256 seed) external {
        life.live(seed, 40 + seed % 360);
    }

    /// Every move, every state of a work, every outcome and every end of a poll occurs in these lives.
    function test_every_state_is_reached() external {
        uint256 seen = 0;
        for (uint256 i = 0; i < 48; i++) {
            life = new Life();
            life.setUp();
            life.live(uint256(keccak256(abi.encode("reach", i))), 250);
            seen |= life.seen();
        }
        string memory missing = "";
        for (uint256 k = 0; k <= uint256(type(Life.Kind).max); k++) {
            if ((seen >> k) & 1 == 0) missing = string.concat(missing, " move ", vm.toString(k));
        }
        for (uint256 k = 0; k <= uint256(type(Life.Mark).max); k++) {
            if ((seen >> (128 + k)) & 1 == 0) missing = string.concat(missing, " mark ", vm.toString(k));
        }
        if (bytes(missing).length != 0) revert Missing(missing);
    }

    error Missing(string what);
}
