// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Panel} from "../../contracts/Panel.sol";
import {Protocol} from "../../contracts/Protocol.sol";
import {Tasks} from "../../contracts/Tasks.sol";
import {Params} from "../../contracts/libraries/Types.sol";
import {Base, MergeRule} from "./Base.sol";

/// `publish` agrees with `commonweight.core.economics` about random terms: the first complaint, the budget, the risk.
contract EconomicsTest is Base {
    struct Vector {
        uint256[17] terms;
        uint256[7] rule;
        uint256[3] host;
        string what;
        uint256[3] complaint;
        uint256 budget;
        uint256 risk;
    }

    function _terms(uint256[17] memory v) private pure returns (Params memory p) {
        (p.reward, p.bond, p.aggReward, p.aggBond) = (uint96(v[0]), uint96(v[1]), uint96(v[2]), uint96(v[3]));
        (p.slots, p.rounds, p.feeBps, p.want) = (uint16(v[4]), uint16(v[5]), uint16(v[6]), uint16(v[7]));
        (p.quorum, p.lag, p.decoyOneIn) = (uint8(v[8]), uint8(v[9]), uint16(v[10]));
        (p.claimT, p.trainT, p.sealT) = (uint24(v[11]), uint24(v[12]), uint24(v[13]));
        (p.revealT, p.openT, p.aggT) = (uint24(v[14]), uint24(v[15]), uint24(v[16]));
    }

    function _rule(uint256[7] memory v) private pure returns (MergeRule memory m) {
        (m.length, m.shift, m.trim) = (uint64(v[0]), uint8(v[1]), uint8(v[2]));
        (m.lrNum, m.lrDen, m.momentumNum, m.momentumDen) =
        (uint16(v[3]), uint16(v[4]), uint16(v[5]), uint16(v[6]));
    }

    function _host(uint256[3] memory v) private {
        protocol = new Protocol(token, uint96(v[0]), uint40(v[1]), uint96(v[2]));
        (vault, panel, tasks) = (protocol.vault(), protocol.panel(), protocol.tasks());
        token.mint(publisher, type(uint128).max);
        vm.prank(publisher);
        token.approve(address(vault), type(uint256).max);
        vm.prank(publisher);
        vault.deposit(type(uint128).max);
    }

    function test_python_agrees() external {
        string[] memory texts = vm.parseJsonStringArray(vm.readFile("tests/vectors/economics.json"), "$");
        uint256 good = 0;
        for (uint256 n = 0; n < texts.length; n++) {
            // One dynamic struct is encoded like its fields behind one offset word.
            bytes memory raw = bytes.concat(bytes32(uint256(32)), vm.parseBytes(texts[n]));
            Vector memory v = abi.decode(raw, (Vector));
            _host(v.host);
            Params memory p = ruled(_terms(v.terms), _rule(v.rule));
            if (bytes(v.what).length == 0) {
                uint256 before = vault.free(publisher);
                vm.prank(publisher);
                uint256 t = tasks.publish(p, "spec", "model", "");
                eq(before - vault.free(publisher), v.budget, "budget");
                eq(tasks.risk(t), v.risk, "risk");
                good++;
                continue;
            }
            vm.expectRevert(
                abi.encodeWithSelector(
                    Tasks.OutOfRange.selector,
                    bytes32(bytes(v.what)),
                    v.complaint[0],
                    v.complaint[1],
                    v.complaint[2]
                )
            );
            vm.prank(publisher);
            tasks.publish(p, "spec", "model", "");
        }
        ok(texts.length >= 240 && good >= 40, "vectors of both kinds were read");
    }
}
