// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Vault} from "../../contracts/Vault.sol";
import {BURN} from "../../contracts/libraries/Types.sol";
import {Base} from "./Base.sol";

/// Keeps a tenth of every transfer.
contract FeeToken is ERC20("fee", "FEE") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (from == address(0)) return super._update(from, to, amount);
        super._update(from, to, amount - amount / 10);
        super._update(from, address(1), amount / 10);
    }
}

/// Calls back into the vault while it moves, and may lie about success.
contract HookToken is ERC20("hook", "HOOK") {
    Vault public vault;
    bool public refuses;

    function arm(Vault vault_, bool refuses_) external {
        (vault, refuses) = (vault_, refuses_);
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        if (refuses) return false;
        if (address(vault) != address(0)) vault.withdraw(1);
        return super.transfer(to, amount);
    }
}

/// A token with EIP-2612 permits.
contract PermitToken is ERC20 {
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
    mapping(address owner => uint256) public nonces;

    constructor() ERC20("Permit", "P") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function digest(address owner, address spender, uint256 value, uint256 nonce, uint256 deadline)
        public
        view
        returns (bytes32)
    {
        bytes32 domain = keccak256(abi.encode("domain", block.chainid, address(this)));
        bytes32 body = keccak256(abi.encode(PERMIT, owner, spender, value, nonce, deadline));
        return keccak256(abi.encodePacked(hex"1901", domain, body));
    }

    function permit(
        address owner,
        address spender,
        uint256 value,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external {
        require(block.timestamp <= deadline, "late");
        require(ecrecover(digest(owner, spender, value, nonces[owner]++, deadline), v, r, s) == owner, "sig");
        _approve(owner, spender, value);
    }
}

contract VaultTest is Base {
    bytes32 private constant ID = "id";

    function test_deposit_and_withdraw() external {
        address who = address(0xBEEF);
        token.mint(who, 100);
        vm.prank(who);
        token.approve(address(vault), 100);
        vm.expectEmit(address(vault));
        emit Vault.Deposited(who, 100);
        vm.prank(who);
        vault.deposit(100);
        people.push(who);
        solvent();
        vm.expectEmit(address(vault));
        emit Vault.Withdrawn(who, 30);
        vm.prank(who);
        vault.withdraw(30);
        eq(token.balanceOf(who), 30, "withdrawn");
        eq(vault.free(who), 70, "free");
        solvent();
    }

    function test_withdraw_more_than_free() external {
        vm.expectRevert(abi.encodeWithSelector(Vault.ShortFree.selector, stranger, 0, 1));
        vm.prank(stranger);
        vault.withdraw(1);
    }

    /// A token may mint more than the ledger's words hold; such a deposit is refused, not cut off.
    function test_a_sum_that_does_not_fit() external {
        token.mint(stranger, 1 << 248);
        vm.prank(stranger);
        token.approve(address(vault), type(uint256).max);
        vm.expectRevert(
            abi.encodeWithSelector(SafeCast.SafeCastOverflowedUintDowncast.selector, 248, uint256(1 << 248))
        );
        vm.prank(stranger);
        vault.deposit(1 << 248);
    }

    /// I9: half of what a broken promise costs is burnt, and the odd wei with it.
    function test_half_is_burnt() external {
        vm.prank(address(court));
        vault.lock(publisher, ID, 71);
        uint256 burnt = vault.free(BURN);
        vm.expectEmit(address(vault));
        emit Vault.Paid(address(court), ID, stranger, 35);
        vm.expectEmit(address(vault));
        emit Vault.Paid(address(court), ID, BURN, 36);
        vm.prank(address(court));
        vault.halve(ID, stranger, 71);
        eq(vault.free(stranger), 35, "half");
        eq(vault.free(BURN) - burnt, 36, "the rest");
        vm.expectRevert(err(Vault.NotModule.selector, stranger));
        vm.prank(stranger);
        vault.halve(ID, stranger, 0);
    }

    function test_moves_of_a_module() external {
        uint256 before = vault.free(publisher);
        vm.expectEmit(address(vault));
        emit Vault.Locked(address(tasks), ID, publisher, 70);
        vm.prank(address(tasks));
        vault.lock(publisher, ID, 70);
        vm.expectEmit(address(vault));
        emit Vault.Shifted(address(tasks), ID, address(court), "other", 20);
        vm.prank(address(tasks));
        vault.shift(ID, address(court), "other", 20);
        vm.expectEmit(address(vault));
        emit Vault.Paid(address(court), "other", BURN, 20);
        vm.prank(address(court));
        vault.pay("other", BURN, 20);
        vm.prank(address(tasks));
        vault.pay(ID, publisher, 50);
        eq(vault.free(publisher), before - 20, "free");
        eq(vault.free(BURN), 20, "burnt");
        solvent();
    }

    function test_only_modules_move() external {
        vm.expectRevert(err(Vault.NotModule.selector, address(this)));
        vault.lock(publisher, ID, 1);
        vm.expectRevert(err(Vault.NotModule.selector, address(this)));
        vault.pay(ID, publisher, 0);
        vm.expectRevert(err(Vault.NotModule.selector, stranger));
        vm.prank(address(tasks));
        vault.shift(ID, stranger, ID, 0);
        vm.expectRevert(err(Vault.NotModule.selector, address(this)));
        vault.shift(ID, address(tasks), ID, 0);
    }

    function test_a_module_moves_its_own_pots_only() external {
        vm.prank(address(tasks));
        vault.lock(publisher, ID, 70);
        vm.expectRevert(abi.encodeWithSelector(Vault.ShortPot.selector, address(court), ID, 0, 1));
        vm.prank(address(court));
        vault.pay(ID, publisher, 1);
        vm.expectRevert(abi.encodeWithSelector(Vault.ShortPot.selector, address(panel), ID, 0, 1));
        vm.prank(address(panel));
        vault.shift(ID, address(panel), ID, 1);
        vm.expectRevert(abi.encodeWithSelector(Vault.ShortFree.selector, stranger, 0, 1));
        vm.prank(address(tasks));
        vault.lock(stranger, ID, 1);
    }

    function test_fee_token_credits_what_arrived() external {
        FeeToken fee = new FeeToken();
        Vault v = new Vault(fee, address(panel), address(tasks), address(court));
        fee.mint(stranger, 100);
        vm.prank(stranger);
        fee.approve(address(v), 100);
        vm.prank(stranger);
        v.deposit(100);
        eq(v.free(stranger), 90, "credited");
        eq(v.owed(), fee.balanceOf(address(v)), "owed");
    }

    function test_reentrant_token() external {
        HookToken hook = new HookToken();
        Vault v = _hooked(hook);
        hook.arm(v, false);
        vm.expectRevert(Vault.Reentered.selector);
        vm.prank(stranger);
        v.withdraw(10);
    }

    function test_token_that_refuses() external {
        HookToken hook = new HookToken();
        Vault v = _hooked(hook);
        hook.arm(Vault(address(0)), true);
        vm.expectRevert(err(SafeERC20.SafeERC20FailedOperation.selector, address(hook)));
        vm.prank(stranger);
        v.withdraw(10);
    }

    function test_donations_change_nothing() external {
        token.mint(address(vault), 5);
        eq(token.balanceOf(address(vault)), vault.owed() + 5, "more than owed");
    }

    function _hooked(HookToken hook) private returns (Vault v) {
        v = new Vault(IERC20(hook), address(panel), address(tasks), address(court));
        hook.mint(stranger, 100);
        vm.prank(stranger);
        hook.approve(address(v), 100);
        vm.prank(stranger);
        v.deposit(100);
    }

    // --------------------------------------------------------------------------------- permit and payout

    function _permitting() private returns (PermitToken coin, address who, uint256 key) {
        coin = new PermitToken();
        vault = new Vault(coin, address(1), address(2), address(3));
        key = 0xC01D;
        who = vm.addr(key);
        coin.mint(who, 100);
    }

    function test_deposit_with_permit() external {
        (PermitToken coin, address who, uint256 key) = _permitting();
        bytes32 digest = coin.digest(who, address(vault), 60, 0, block.timestamp);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        vm.expectRevert(abi.encodeWithSignature("Error(string)", "sig"));
        vm.prank(stranger);
        vault.depositWithPermit(60, block.timestamp, v, r, s);
        vm.prank(who);
        vault.depositWithPermit(60, block.timestamp, v, r, s);
        eq(vault.free(who), 60, "deposited");
        eq(coin.allowance(who, address(vault)), 0, "and used up");
    }

    /// Somebody else may submit the permit first; the deposit works all the same.
    function test_a_permit_that_was_used_by_somebody_else() external {
        (PermitToken coin, address who, uint256 key) = _permitting();
        bytes32 digest = coin.digest(who, address(vault), 60, 0, block.timestamp);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        vm.prank(stranger);
        coin.permit(who, address(vault), 60, block.timestamp, v, r, s);
        vm.prank(who);
        vault.depositWithPermit(60, block.timestamp, v, r, s);
        eq(vault.free(who), 60, "deposited");
    }

    /// A stolen hot key can lock its owner's tokens, and can never carry them off.
    function test_payout_to_a_cold_address() external {
        address hot = address(0x407);
        address cold = address(0xC01D);
        _rich(hot, 100);
        vm.expectRevert(abi.encodeWithSelector(Vault.NotPayout.selector, stranger, hot));
        vm.prank(stranger);
        vault.setPayout(hot, stranger);
        vm.expectEmit(address(vault));
        emit Vault.PayoutSet(hot, cold);
        vm.prank(hot);
        vault.setPayout(hot, cold);
        vm.expectRevert(abi.encodeWithSelector(Vault.NotPayout.selector, hot, cold));
        vm.prank(hot);
        vault.setPayout(hot, hot);
        vm.prank(hot);
        vault.withdraw(40);
        eq(token.balanceOf(cold), 40, "to the cold address");
        vm.prank(cold);
        vault.setPayout(hot, address(0));
        vm.prank(hot);
        vault.withdraw(60);
        eq(token.balanceOf(hot), 60, "to himself again");
        eq(vault.owed(), vault.free(BURN) + 1_200_000 * UNIT, "owed");
    }
}
