"""What a task's thresholds must separate: honest differences between machines, and forgers, both run on this one."""
