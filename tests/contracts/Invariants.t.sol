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

    /// Every invariant, after every move: one campaign serves them all.
    function invariant_I1_to_I20() external view {
        _I1_the_vault_is_solvent();
        _I2_I3_tokens_are_conserved();
        ok(life.escrowCovers(), "I4: escrow covers every payment still possible");
        ok(life.publisherGainsNothing(), "I5: the publisher never gets a bond");
        ok(life.bondsWhole(), "I6: the bond of an open work is whole");
        ok(life.reservesCovered(), "I7: what backs unsettled votes is there");
        ok(life.convictionsSound(), "I8: a conviction has its votes");
        ok(life.burnsHalf(), "I9: half of what was lost is burnt");
        ok(life.decoysDrawn(), "I10: a decoy drew its lottery");
        ok(life.seedsYounger(), "I11: seeds are younger than what they judge");
        ok(life.votesSound(), "I12: no vote counts twice");
        ok(life.pendingCounts(), "I13: pending counts the open works");
        ok(life.masksSound(), "I14: the mask holds what may be merged");
        ok(life.modelsRight(), "I15: models come from proposals that stood");
        ok(life.roundsBounded(), "I17: rounds are bounded");
        ok(life.termsFrozen(), "I20: terms never change");
    }

    function _I1_the_vault_is_solvent() private view {
        (uint256 owed, uint256 frees, uint256 pots, uint256 balance) = life.held();
        eq(owed, frees + pots, "I1: owed is the sum of all balances and pots");
        eq(balance, owed, "I1: the vault holds what it owes");
    }

    function _I2_I3_tokens_are_conserved() private view {
        (,,,,, uint256 supply) = life.world();
        (,,, uint256 balance) = life.held();
        eq(life.outside() + balance, supply, "I2, I3: nothing made, nothing lost");
    }

    /// I16: from wherever a life has come, strangers bring everything home.
    function afterInvariant() external {
        life.finish();
    }

    /// Lives of every length, each brought home.
    /// forge-config: default.fuzz.runs = 24
    /// forge-config: deep.fuzz.runs = 500
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
