// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// Play money for local chains and testnets: anyone mints. Never deploy it where tokens are worth something.
contract TestToken is ERC20 {
    constructor() ERC20("Commonweight Test Token", "CWT") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
