"""What the fork server of `tests.nursery` has in memory before it forks: everything that a role imports."""

from importlib import import_module

NAMES = (
    "commonweight.cli.commands",
    "commonweight.cli.main",
    "commonweight.nodes.publishing",
    "commonweight.nodes.wiring",
    "commonweight.tasks.kind_pretrain",
    "pydoc_data.topics",
    "torch._dynamo",  # torch loads it at the first step of an optimizer, for two seconds
)
for name in NAMES:
    import_module(name)
