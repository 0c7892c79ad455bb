"""What the fork server of `tests.nursery` has in memory before it forks: everything that a role imports."""

import commonweight.cli.commands
import commonweight.cli.main
import commonweight.nodes.publishing
import commonweight.nodes.wiring
import commonweight.tasks.kind_pretrain  # noqa: F401
