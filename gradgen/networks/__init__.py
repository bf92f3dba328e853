"""Networks: what they are to the rest of the program, and how a name becomes one."""
