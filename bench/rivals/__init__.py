"""Other engines beside warmeng's: each in a process of its own, asked for the same passes by JSON lines."""
