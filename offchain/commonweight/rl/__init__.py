"""Decoupled asynchronous reinforcement learning: environments, rollout engine, trajectory buffer, learner.

The four parts know nothing of leases and chains; `tasks.grpo` ties them to work that others can check.
"""
