"""This process: devices and collectives, the terminal, signals, memory, errors of the system."""
