// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Panel} from "../Panel.sol";
import {Tasks} from "../Tasks.sol";
import {Vault} from "../Vault.sol";
import {Beacon} from "./Beacon.sol";
import {Terms} from "./Terms.sol";
import {Tree} from "./Tree.sol";
import {Header, Round, State, Store, Task, Work} from "./Types.sol";

/// What Tasks and the libraries that run on its storage know in common about a round and its works.
library Rounds {
    using SafeCast for uint256;

    /// Which round of which task, and who holds the tokens and the votes.
    struct Where {
        Vault vault;
        Panel panel;
        uint256 task;
        uint256 round;
    }

    function potId(uint256 taskId, uint256 r, uint256 slot) internal pure returns (bytes32) {
        return keccak256(abi.encode(taskId, r, slot));
    }

    function notBefore(uint256 due) internal view {
        if (block.timestamp < due) revert Tasks.TooEarly(due);
    }

    function before(uint256 due) internal view {
        if (block.timestamp >= due) revert Tasks.TooLate(due);
    }

    function task(Store storage s, uint256 id) internal view returns (Task storage t) {
        t = s.tasks[id];
        if (t.publisher == address(0)) revert Tasks.UnknownTask(id);
    }

    function round(Store storage s, Where memory here)
        internal
        view
        returns (Task storage t, Round storage rd)
    {
        t = task(s, here.task);
        if (here.round >= t.begun) revert Tasks.UnknownRound(here.task, here.round);
        rd = s.rounds[here.task][here.round];
    }

    function work(Store storage s, Where memory here, uint256 slot)
        internal
        view
        returns (Task storage t, Round storage rd, Work storage w)
    {
        t = s.tasks[here.task];
        rd = s.rounds[here.task][here.round];
        w = s.works[here.task][here.round][slot];
        if (w.state == State.NONE) revert Tasks.WrongState(State.NONE);
    }

    /// The caller's own lease that is not submitted.
    function leased(Store storage s, Where memory here, uint256 slot)
        internal
        view
        returns (Task storage t, Round storage rd, Work storage w)
    {
        (t, rd, w) = work(s, here, slot);
        if (msg.sender != w.trainer) revert Tasks.NotTrainer(msg.sender, w.trainer);
        if (w.state != State.CLAIMED) revert Tasks.WrongState(w.state);
    }

    /// The model that the last settled round left.
    function model(Store storage s, uint256 id) internal view returns (bytes32) {
        Task storage t = s.tasks[id];
        return t.settled == 0 ? t.model : s.rounds[id][t.settled - 1].root;
    }

    /// When the mask of a round that is being checked is final; 0 while that is not known.
    function maskFinalAt(Store storage s, Where memory here) internal view returns (uint256) {
        Round storage rd = s.rounds[here.task][here.round];
        if (rd.poll == 0) return rd.decidedAt;
        // slither-disable-next-line unused-return
        (, uint40 over) = here.panel.ends(rd.poll);
        if (rd.undecided != 0) return uint256(over) + s.tasks[here.task].params.openT;
        return rd.decidedAt > over ? rd.decidedAt : over;
    }

    /// When the votes on a round's works ended; reverts while they have not.
    function revealEnd(Where memory here, Round storage rd) internal view returns (uint256 over) {
        if (rd.poll == 0) revert Tasks.TooEarly(rd.trainEnd);
        // slither-disable-next-line unused-return
        (, over) = here.panel.ends(rd.poll);
        notBefore(over);
    }

    /// Stores the data seed; false when its beacon can no longer be read.
    function draw(Where memory here, Round storage rd) internal returns (bool) {
        if (rd.seed != 0) return true;
        bytes32 hash = Beacon.read(rd.beacon);
        if (hash == 0) return false;
        rd.seed = sha256(abi.encode(hash, here.task, here.round));
        emit Tasks.Seeded(here.task, here.round, rd.seed);
        return true;
    }

    function submit(Where memory here, uint256 slot, Round storage rd, Work storage w, bytes32 root)
        internal
    {
        w.state = State.SUBMITTED;
        w.root = root;
        rd.undecided += 1;
        emit Tasks.Submitted(here.task, here.round, slot, msg.sender, root);
    }

    /// A work after its votes, with its seal opened by the right secret and its root by the right header.
    function opened(Store storage s, Where memory here, uint256 slot, bytes32 secret, Header calldata h)
        internal
        returns (Task storage t, Round storage rd, Work storage w)
    {
        (t, rd, w) = work(s, here, slot);
        if (w.opened || (w.state != State.SUBMITTED && w.state != State.DISPUTED)) {
            revert Tasks.WrongState(w.state);
        }
        before(revealEnd(here, rd) + t.params.openT);
        bytes32 seal = sha256(abi.encode(secret, w.trainer));
        if (seal != w.seal) revert Tasks.WrongSecret(w.seal, seal);
        bytes32 root = Tree.rootOf(h);
        if (root != w.root) revert Tasks.WrongHeader(w.root, root);
        w.opened = true;
    }

    /// One more submitted work has its mask bit fixed.
    function decide(Round storage rd) internal {
        rd.undecided -= 1;
        if (rd.undecided == 0) rd.decidedAt = block.timestamp.toUint40();
    }

    /// Terminal states are terminal, and `pending` counts the others (keeps I13).
    function finish(Task storage t, Work storage w, State state) internal {
        w.state = state;
        t.pending -= 1;
    }

    /// A work that entered late is worth half.
    function reward(Task storage t, Round storage rd, uint256 slot) internal view returns (uint256) {
        return slot >= rd.claimed ? t.params.reward / 2 : t.params.reward;
    }

    /// Bond and reward for the trainer, the fee for the voters who were right.
    function accept(
        Where memory here,
        Task storage t,
        Work storage w,
        uint256 slot,
        uint256 amount,
        uint256 voters
    ) internal {
        bytes32 pot = potId(here.task, here.round, slot);
        fund(here, t, pot, amount, voters);
        here.vault.pay(pot, w.trainer, t.params.bond + amount);
    }

    /// Moves what a decided work costs from the escrow to the work's pot: `amount`, and the fee in equal shares; the dust
    /// of the fee stays with the publisher.
    function fund(Where memory here, Task storage t, bytes32 pot, uint256 amount, uint256 voters) internal {
        uint256 fee = voters == 0 ? 0 : Terms.fee(t.params.reward, t.params.feeBps) / voters;
        // slither-disable-next-line divide-before-multiply
        here.vault.shift(bytes32(here.task), address(this), pot, amount + fee * voters);
    }

    /// The works that enter the merge, one bit each.
    function mask(Round storage rd) internal view returns (uint256) {
        return rd.merged == 0 ? 0 : ~rd.unmerged;
    }
}
