"""What is checked on a deployed host, one module a task, each check marked with its checklist item."""
