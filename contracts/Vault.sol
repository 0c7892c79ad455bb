// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {BURN} from "./libraries/Types.sol";

/// The only holder of tokens. Everything else moves numbers between `free` balances and modules' pots.
/// Keeps I1 (balance >= owed, owed = sum of all free and pots), I2, I3.
contract Vault {
    using SafeCast for uint256;
    using SafeERC20 for IERC20;

    IERC20 public immutable token;
    address public immutable panel;
    address public immutable tasks;
    address public immutable court;

    /// Sum of all free balances and pots. It shares its slot with the guard, so that the first deposit finds it written.
    uint248 public owed;
    bool private _idle = true;
    mapping(address who => uint256) public free;
    mapping(address module => mapping(bytes32 id => uint256)) public pot;
    /// Where somebody's withdrawals go; 0: to himself.
    mapping(address who => address) public payout;

    event Deposited(address indexed who, uint256 amount);
    event Withdrawn(address indexed who, uint256 amount);
    event PayoutSet(address indexed who, address indexed cold);
    event Locked(address indexed module, bytes32 indexed id, address indexed from, uint256 amount);
    event Paid(address indexed module, bytes32 indexed id, address indexed to, uint256 amount);
    event Shifted(
        address indexed module, bytes32 indexed id, address indexed toModule, bytes32 toId, uint256 amount
    );

    error Reentered();
    error NotPayout(address caller, address needs);
    error NotModule(address caller);
    error ShortFree(address who, uint256 has, uint256 needs);
    error ShortPot(address module, bytes32 id, uint256 has, uint256 needs);

    /// A token that calls back in the middle of a deposit would have what arrives counted twice.
    modifier nonReentrant() {
        if (!_idle) revert Reentered();
        _idle = false;
        _;
        _idle = true;
    }

    constructor(IERC20 token_, address panel_, address tasks_, address court_) {
        token = token_;
        panel = panel_;
        tasks = tasks_;
        court = court_;
    }

    /// Deposits with the caller's signature instead of an approval. Somebody else may have used it first; that is fine.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external {
        if (token.allowance(msg.sender, address(this)) < amount) {
            IERC20Permit(address(token)).permit(msg.sender, address(this), amount, deadline, v, r, s);
        }
        deposit(amount);
    }

    /// Credits what really arrived, so a token that takes a fee cannot make the Vault owe more than it has.
    function deposit(uint256 amount) public nonReentrant {
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(msg.sender, address(this), amount);
        uint256 arrived = token.balanceOf(address(this)) - before;
        owed += arrived.toUint248();
        free[msg.sender] += arrived;
        emit Deposited(msg.sender, arrived);
    }

    function withdraw(uint256 amount) external nonReentrant {
        _debit(msg.sender, amount);
        owed -= amount.toUint248();
        emit Withdrawn(msg.sender, amount);
        address cold = payout[msg.sender];
        token.safeTransfer(cold == address(0) ? msg.sender : cold, amount);
    }

    /// Sends all later withdrawals of `who` to a cold address. Only that address can change it again, so a stolen hot key
    /// can spend its owner's tokens on bonds but never carry them off.
    function setPayout(address who, address cold) external {
        address needs = payout[who] == address(0) ? who : payout[who];
        if (msg.sender != needs) revert NotPayout(msg.sender, needs);
        payout[who] = cold;
        emit PayoutSet(who, cold);
    }

    /// A module locks what its own caller promised: `from` is that module's msg.sender (I2).
    function lock(address from, bytes32 id, uint256 amount) external {
        _onlyModule(msg.sender);
        _debit(from, amount);
        pot[msg.sender][id] += amount;
        emit Locked(msg.sender, id, from, amount);
    }

    /// A module pays out of its own pot only (I3).
    function pay(bytes32 id, address to, uint256 amount) public {
        _take(id, amount);
        free[to] += amount;
        emit Paid(msg.sender, id, to, amount);
    }

    /// What a broken promise costs: half goes to whoever found out or was wronged, the rest is burnt (keeps I9).
    function halve(bytes32 id, address to, uint256 amount) external {
        pay(id, to, amount / 2);
        pay(id, BURN, amount - amount / 2);
    }

    function shift(bytes32 id, address module, bytes32 toId, uint256 amount) external {
        _onlyModule(module);
        _take(id, amount);
        pot[module][toId] += amount;
        emit Shifted(msg.sender, id, module, toId, amount);
    }

    function _debit(address who, uint256 amount) private {
        uint256 has = free[who];
        if (has < amount) revert ShortFree(who, has, amount);
        free[who] = has - amount;
    }

    function _take(bytes32 id, uint256 amount) private {
        _onlyModule(msg.sender);
        uint256 has = pot[msg.sender][id];
        if (has < amount) revert ShortPot(msg.sender, id, has, amount);
        pot[msg.sender][id] = has - amount;
    }

    function _onlyModule(address who) private view {
        if (who != tasks && who != panel && who != court) revert NotModule(who);
    }
}
