// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// What the modules use of the Vault.
interface IVault {
    function pot(address module, bytes32 id) external view returns (uint256);
    function lock(address from, bytes32 id, uint256 amount) external;
    function pay(bytes32 id, address to, uint256 amount) external;
    function shift(bytes32 id, address module, bytes32 toId, uint256 amount) external;
}
