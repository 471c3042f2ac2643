"""Pure logic, and parts that need no broker."""
