"""Independent models of what the contracts do, in plain Python: what the Solidity is compared with."""
