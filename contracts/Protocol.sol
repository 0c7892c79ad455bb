// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Court} from "./Court.sol";
import {Panel} from "./Panel.sol";
import {Tasks} from "./Tasks.sol";
import {Vault} from "./Vault.sol";

/// Deploys the four contracts in one transaction, each knowing the others' addresses from birth, and keeps no power.
contract Protocol {
    Vault public immutable vault;
    Panel public immutable panel;
    Tasks public immutable tasks;
    Court public immutable court;

    error Miswired(address panelAt, address tasksAt, address courtAt);

    constructor(IERC20 token, uint96 seatStake, uint40 exitDelay, uint96 riskMin) {
        address panelAt = _created(2);
        address tasksAt = _created(3);
        address courtAt = _created(4);
        vault = new Vault(token, panelAt, tasksAt, courtAt);
        panel = new Panel(vault, tasksAt, courtAt, seatStake, exitDelay);
        tasks = new Tasks(vault, Panel(panelAt), Court(courtAt), riskMin);
        court = new Court(vault, Panel(panelAt), Tasks(tasksAt));
        if (address(panel) != panelAt || address(tasks) != tasksAt || address(court) != courtAt) {
            revert Miswired(panelAt, tasksAt, courtAt);
        }
    }

    /// The address that this contract's creation number `nonce` (1..127) gets: keccak of RLP([this, nonce]).
    function _created(uint8 nonce) internal view virtual returns (address) {
        return address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", address(this), nonce)))));
    }
}
