// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {TestToken} from "../../../contracts/TestToken.sol";
import {Vault} from "../../../contracts/Vault.sol";
import {Exact} from "../../../contracts/libraries/Exact.sol";

/// The cheatcodes that the prover knows.
interface Vm {
    function prank(address sender) external;
    function assume(bool holds) external pure;
}

/// Proved for every argument by `make symbolic`, which treats `check_` as a test and its arguments as unknowns.
contract SymbolicTest {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    address private constant PANEL = address(0xA1);
    address private constant TASKS = address(0xA2);
    address private constant COURT = address(0xA3);

    TestToken private token;
    Vault private vault;

    function setUp() public {
        token = new TestToken();
        vault = new Vault(token, PANEL, TASKS, COURT);
        _funded(address(0xB1), 1000);
        _funded(address(0xB2), 500);
        vm.prank(TASKS);
        vault.lock(address(0xB1), "work", 300);
        vm.prank(COURT);
        vault.lock(address(0xB1), "work", 200);
    }

    function _funded(address who, uint256 amount) private {
        token.mint(who, amount);
        vm.prank(who);
        token.approve(address(vault), amount);
        vm.prank(who);
        vault.deposit(amount);
    }

    function _module(address who) private pure returns (bool) {
        return who == PANEL || who == TASKS || who == COURT;
    }

    /// I2: what somebody calls directly lowers no balance but his own, unless he is a module.
    function check_I2_strangers_lower_no_balance(
        address caller,
        bytes32 id,
        address to,
        uint256 amount,
        uint8 verb
    ) external {
        vm.assume(!_module(caller) && caller != address(0xB1));
        uint256 before = vault.free(address(0xB1));
        vm.prank(caller);
        _any(verb, id, to, amount);
        assert(vault.free(address(0xB1)) >= before);
    }

    /// I1: no call changes what is owed without moving as much of the token.
    function check_I1_owed_follows_the_token(
        address caller,
        bytes32 id,
        address to,
        uint256 amount,
        uint8 verb
    ) external {
        vm.assume(caller != address(vault) && to != address(vault));
        vm.prank(caller);
        _any(verb, id, to, amount);
        assert(token.balanceOf(address(vault)) == vault.owed());
    }

    /// I3: whatever a module does, another module's pots stay as they are, or grow.
    function check_I3_a_module_takes_from_no_other(bytes32 id, address to, uint256 amount, uint8 verb)
        external
    {
        uint256 before = vault.pot(COURT, "work");
        vm.prank(TASKS);
        _any(verb, id, to, amount);
        assert(vault.pot(COURT, "work") >= before);
    }

    /// I3: a payment takes from a pot exactly what it gives.
    function check_I3_a_payment_conserves(bytes32 id, address to, uint256 amount) external {
        (uint256 pot, uint256 free, uint256 owed) = (vault.pot(TASKS, id), vault.free(to), vault.owed());
        vm.prank(TASKS);
        vault.pay(id, to, amount);
        assert(
            vault.pot(TASKS, id) + amount == pot && vault.free(to) == free + amount && vault.owed() == owed
        );
    }

    function _any(uint8 verb, bytes32 id, address to, uint256 amount) private {
        if (verb == 0) vault.deposit(amount);
        else if (verb == 1) vault.withdraw(amount);
        else if (verb == 2) vault.setPayout(to, address(0xC0));
        else if (verb == 3) vault.lock(to, id, amount);
        else if (verb == 4) vault.pay(id, to, amount);
        else vault.shift(id, COURT, id, amount);
    }

    /// An update's lane counts as 16 bits, and no clamped lane changes its sign or its order.
    function check_clamping(int32 a, int32 b, bool late) external pure {
        (int256 x, int256 y) = (Exact.clamped(a, late), Exact.clamped(b, late));
        assert(x >= -32_767 && x <= 32_767);
        assert(a > b || x <= y);
    }

    /// What is written to a version fits into 32 bits and is the number itself where that does.
    function check_saturation(int256 x) external pure {
        int256 y = Exact.saturate(x);
        assert(y >= type(int32).min && y <= type(int32).max);
        assert(x < type(int32).min || x > type(int32).max || x == y);
    }

    /// Division rounds down: for a power of two it is a shift. (Other divisors are beyond the solver; they are fuzzed.)
    function check_floor(int32 a) external pure {
        assert(Exact.floorDiv(a, 8) == int256(a) >> 3);
    }

    /// Four little-endian bytes are their int32.
    function check_lanes(int32 x) external pure {
        uint32 u = uint32(x);
        bytes4 word = bytes4((u >> 24) | ((u >> 8) & 0xff00) | ((u & 0xff00) << 8) | (u << 24));
        assert(Exact.lane(word) == x);
    }
}
